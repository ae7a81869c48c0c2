"""How do the monitor's videos get into TensorBoard's projector? Vectors, labels and thumbnails."""

import io

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import projector_config_pb2

from tce_tf.data import decoding, sampling, shard_reader, storage

MAX_VIDEOS = 5_000  # what a browser turns around without effort
_SPRITE_SIDE = 8_192  # px, the projector's limit
_THUMBNAIL_SIDE = 64


def write(folder: str, features: np.ndarray, reader: shard_reader.ShardReader) -> None:
    """Makes a TensorBoard run folder show videos in the projector, or shows their newest vectors.

    Args:
      folder: of TensorBoard, local or remote.
      features: float [V, F], a row a video of the reader; evenly spaced ones where there are more
        than `MAX_VIDEOS`.
      reader: the videos.

    Raises:
      errors.UserError: the folder cannot be written.
    """
    count = min(len(reader.names), MAX_VIDEOS)
    videos = np.arange(count) * len(reader.names) // count
    side = thumbnail_side(count)
    names = {"tensor_path": "projector.vectors.tsv", "metadata_path": "projector.labels.tsv"}
    sprite = "projector.thumbnails.png"
    lines = ["\t".join(f"{x:.6g}" for x in row) for row in features[videos]]
    _put(folder, names["tensor_path"], "\n".join(lines) + "\n")
    labels = ["name\tclass"]
    for video in videos:
        label = int(reader.labels[video])
        class_name = reader.class_names[label] if label >= 0 else ""
        labels.append("\t".join(" ".join(x.split()) for x in (reader.names[video], class_name)))
    text = "\n".join(labels) + "\n"
    shown = storage.join(folder, names["metadata_path"])
    if storage.size(shown) is not None and storage.read_bytes(shown) == _encoded(text):
        return  # the same videos: their thumbnails are there
    configured = projector_config_pb2.ProjectorConfig()
    entry = configured.embeddings.add(tensor_name="features of the monitor's videos", **names)
    entry.sprite.image_path = sprite
    entry.sprite.single_image_dim.extend([side, side])
    _put(folder, "projector_config.pbtxt", text_format.MessageToString(configured))
    file = io.BytesIO()
    Image.fromarray(thumbnails(reader, videos, side)).save(file, format="PNG")
    storage.write_atomic(storage.join(folder, sprite), file.getvalue())
    _put(folder, names["metadata_path"], text)  # last: it tells that the others are there


def thumbnail_side(count: int) -> int:
    """Side in px of each of so many thumbnails, square by square in one picture."""
    return min(_THUMBNAIL_SIDE, _SPRITE_SIDE // int(np.ceil(np.sqrt(count))))


def thumbnails(reader: shard_reader.ShardReader, videos: np.ndarray, side: int) -> np.ndarray:
    """The middle frames of videos in one square picture, row by row: uint8 [H, W, 3].

    A frame that cannot be read stays grey.
    """
    across = int(np.ceil(np.sqrt(len(videos))))
    sprite = np.full([across * side, across * side, 3], 128, np.uint8)
    middles = [sampling.evenly_spaced_frames(int(reader.num_frames[v]), 1)[0] for v in videos]

    def place(i, pixels):
        row, column = divmod(i, across)
        small = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))
        sprite[row * side : (row + 1) * side, column * side : (column + 1) * side] = small

    decoding.for_each_frame(reader, videos, middles, place)
    return sprite


def _encoded(text: str) -> bytes:
    # The projector reads UTF-8; a name from a file system need not be.
    return text.encode("utf-8", "backslashreplace")


def _put(folder: str, name: str, text: str) -> None:
    storage.write_atomic(storage.join(folder, name), _encoded(text))
