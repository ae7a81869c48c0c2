"""How do TFRecord files made by other programs become readable here? They are indexed in place.

Any `tf.train.SequenceExample` with MediaSequence/DMVR keys will do (Model Garden's, Scenic's).
They are read once and stay as they are; an index is written beside each and a manifest beside all.
"""

import hashlib
import io
import os

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import manifest as manifests
from tce_tf.data import pictures, remote, run_state, shard_format, storage

_EXTENSION = ".tfrecord"
_IN_PLACE = "indexed_in_place"  # among a manifest's arguments


def is_asked_for(input_path: str, output: str) -> bool:
    """Whether a command's input is a folder of foreign TFRecord files, to be indexed in place.

    Raises:
      errors.UserError: it is one, but the output is another folder.
    """
    if not remote.is_remote(input_path) and not os.path.isdir(input_path):
        return False
    names = storage.sizes(input_path)
    if not any(name.endswith(_EXTENSION) for name in names):
        return False
    if manifests.FILE_NAME in names and not _is_indexed_in_place(manifests.read(input_path)):
        return False
    if not remote.is_remote(input_path) and run_state.WORK_FOLDER in os.listdir(input_path):
        return False  # an unfinished run of ours
    if _place(input_path) != _place(output):
        raise errors.UserError(
            f"{input_path} holds TFRecord files; to index them there, give it as --output too"
        )
    return True


def _place(path: str) -> str:
    return path.rstrip("/") if remote.is_remote(path) else os.path.realpath(path)


def _is_indexed_in_place(manifest: manifests.Manifest) -> bool:
    return manifest.arguments.get(_IN_PLACE) is True


def index_folder(folder: str) -> manifests.Manifest:
    """Writes an index for each TFRecord file of a folder, and the folder's manifest.

    A folder that was indexed and whose files kept their lengths is left as it is. Records without
    `clip/media_id` are named after their file and position; labels come from `clip/label/index` and
    names from `clip/label/text`.

    Raises:
      errors.UserError: a file is damaged, compressed, or holds other things than videos.
    """
    sizes = storage.sizes(folder)
    files = sorted(name for name in sizes if name.endswith(_EXTENSION))
    if not files:
        raise errors.UserError(f"{folder} holds no {_EXTENSION} files")
    shards = [{"file": file, "length": sizes[file]} for file in files]
    if manifests.FILE_NAME in sizes:
        manifest = manifests.read(folder)
        if manifest.shards == shards and all(manifests.index_name(file) in sizes for file in files):
            logging.info("%s: %d videos are indexed already", folder, len(manifest.videos))
            return manifest
    videos, class_names, names = [], {}, set()
    for file in files:
        path = storage.join(folder, file)
        rows = []
        try:
            with remote.as_os_errors(path), storage.open_to_read(path) as opened:
                for position, (offset, record) in enumerate(shard_format.read_records(opened)):
                    entry, index, label_text = _describe(record, offset)
                    name = entry["name"] or f"{file.removesuffix(_EXTENSION)}/{position:05d}"
                    if name in names:
                        name = f"{name}@{file.removesuffix(_EXTENSION)}/{position:05d}"
                    names.add(name)
                    videos.append(entry | {"name": name, "video_index": len(videos), "shard": file})
                    rows.append(index)
                    _note_class(class_names, entry["label"], label_text, path)
        except shard_format.FormatError as error:
            raise errors.UserError(
                f"{path}: {error}; it must hold uncompressed SequenceExamples"
            ) from error
        except OSError as error:
            raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate([np.zeros(0, shard_format.INDEX_DTYPE), *rows]))
        storage.write_atomic(storage.join(folder, manifests.index_name(file)), buffer.getvalue())
    if not videos:
        raise errors.UserError(f"{folder}: its {_EXTENSION} files hold no videos")
    highest = max(class_names, default=-1)
    manifest = manifests.Manifest(
        arguments={_IN_PLACE: True},
        class_names=[class_names.get(label, f"class {label}") for label in range(highest + 1)],
        num_rows=len(videos),
        num_rejected=0,
        shards=shards,
        videos=videos,
    )
    manifests.write(folder, manifest)
    logging.info("%s: indexed %d videos, %d frames", folder, len(videos), manifest.num_frames)
    return manifest


def _note_class(class_names: dict, label: int | None, text: str | None, path: str) -> None:
    if label is None:
        return
    if not 0 <= label <= 10**6:
        raise errors.UserError(f"{path}: label {label} is not a class number")
    name = class_names.setdefault(label, text or f"class {label}")
    if text and name != text:
        raise errors.UserError(f"{path}: label {label} is both {name!r} and {text!r}")


def _describe(record: bytes, offset: int) -> tuple[dict, np.ndarray, str | None]:
    """A record's manifest entry, index and class name."""
    import tensorflow as tf  # only here is a record's context read back

    start, end = shard_format.context_span(record)
    try:
        features = tf.train.Features.FromString(record[start:end]).feature
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise shard_format.FormatError(f"bad context of the record at byte {offset}") from error

    def number(key, default):
        feature = features[key] if key in features else tf.train.Feature()
        values = [*feature.int64_list.value, *feature.float_list.value]
        return values[0] if values else default

    def text(key):
        values = features[key].bytes_list.value if key in features else []
        return values[0].decode("utf-8", "replace") if values else None

    rate = float(number(shard_format.FRAME_RATE, 0.0))
    index = shard_format.index_rows(record, offset, round(1e6 / rate) if rate > 0 else 40_000)
    if not len(index):
        raise shard_format.FormatError(
            f"no {shard_format.IMAGE_ENCODED} in the record at byte {offset}"
        )
    checksum, first = hashlib.sha256(), None
    for row in index:
        begin = int(row["offset"]) - offset
        jpeg = record[begin : begin + int(row["length"])]
        checksum.update(jpeg)
        first = first or jpeg
    # The first picture itself is asked: `image/height` is optional and sometimes the source's.
    header = pictures.read_jpeg_header(first)
    if header is None:
        raise shard_format.FormatError(f"the frames of the record at byte {offset} are not JPEG")
    try:
        pictures.check_pixels(header.height, header.width)
    except pictures.VideoError as error:
        raise shard_format.FormatError(f"{error}: the record at byte {offset}") from error
    label = number(shard_format.LABEL_INDEX, None)
    entry = {
        "name": text(shard_format.MEDIA_ID) or "",
        "num_frames": len(index),
        "height": header.height,
        "width": header.width,
        "frame_rate": rate,
        "label": None if label is None else int(label),
        "group": None,
        "checksum": checksum.hexdigest(),
        "truncated": False,
    }
    return entry, index, text(shard_format.LABEL_TEXT)
