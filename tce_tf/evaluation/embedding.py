"""What does an encoder make of each frame of some footage? Streamed, a batch of frames at a time."""

import collections
import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import tqdm

from tce_tf import errors
from tce_tf.data import decoding, layouts, pictures, shard_reader, storage, video
from tce_tf.data import manifest as manifests
from tce_tf.evaluation import video_features


@dataclasses.dataclass(frozen=True)
class Footage:
    """One video to embed: its name and its frames as (microseconds, uint8 [H, W, 3])."""

    name: str
    frames: Iterator[tuple[int, np.ndarray]]


def open_footage(path: str) -> Iterator[Footage]:
    """The videos behind a path: a video file, a folder of videos or of frames, or shards.

    Raises:
      errors.UserError: nothing there, or a shard folder that cannot be used.
    """
    if storage.size(storage.join(path, manifests.FILE_NAME)) is not None:
        yield from _from_shards(shard_reader.ShardReader([path]))
        return
    if os.path.isfile(path) and not path.endswith(".csv"):
        yield Footage(layouts.stem(os.path.basename(path)), video.iterate_frames(path))
        return
    clips = layouts.list_clips(path).clips
    if not clips:
        raise errors.UserError(f"--input={path}: no video in it")
    for clip in clips:
        yield Footage(clip.name, video.iterate_frames(clip.path))


def _from_shards(reader: shard_reader.ShardReader) -> Iterator[Footage]:
    def frames(number):
        for frame, timestamp in enumerate(reader.timestamps(number)):
            jpeg = reader.read_frames(np.array([number]), np.array([frame]))[0]
            yield int(timestamp), decoding.decode_jpeg(jpeg)

    for number, name in enumerate(reader.names):
        yield Footage(name, frames(number))


def embed(
    encoder, path: str, *, pool: str = "none", batch_size: int = 32, progress: bool = False
) -> dict[str, np.ndarray]:
    """Encodes every frame of some footage.

    An encoder of stacks gives a row a frame as well: of the stack that begins with it. Past the end of a
    video stands its last frame.

    Args:
      encoder: has `frames` and `image_shape`, as `serving.EncoderModule` or `loader.load_encoder`'s.
      path: see `open_footage`.
      pool: `none` for one row a frame, `video` for one row a video: the mean over its frames
        (embeddings of unit norm again; time stamp of the first frame).
      batch_size: frames encoded at once.
      progress: show a bar.

    Returns:
      `features` float32 [n, F], `embeddings` float32 [n, D], `names` str [n], `timestamps` int64
      [n] in microseconds.

    Raises:
      errors.UserError: no footage, or a video without one readable frame.
    """
    stack_frames = video_features.stack_frames(encoder)
    rows: dict[str, list] = {"features": [], "embeddings": [], "names": [], "timestamps": []}
    with tqdm.tqdm(unit="frame", disable=not progress) as bar:
        for footage in open_footage(path):
            try:
                images = footage.frames
                if stack_frames > 1:
                    images = _stacks(images, stack_frames)
                encoded = [_encode(encoder, batch, bar) for batch in _batches(images, batch_size)]
            except (pictures.VideoError, shard_reader.FrameError, ValueError) as error:
                raise errors.UserError(f"{path}: {footage.name}: {error}") from error
            features, embeddings, timestamps = map(np.concatenate, zip(*encoded, strict=True))
            if pool == "video":
                features = features.mean(axis=0, keepdims=True)
                embeddings = embeddings.mean(axis=0, keepdims=True)
                embeddings /= np.linalg.norm(embeddings)
                timestamps = timestamps[:1]
            rows["features"].append(features)
            rows["embeddings"].append(embeddings)
            rows["names"].append(np.full(len(features), footage.name))
            rows["timestamps"].append(timestamps)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _stacks(frames: Iterator, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """For each frame its time stamp and the stack from it on, uint8 [length, H, W, 3]."""
    window: collections.deque = collections.deque()
    for item in frames:
        window.append(item)
        if len(window) == length:
            yield window[0][0], np.stack([image for _, image in window])
            window.popleft()
    while window:
        images = [image for _, image in window]
        yield window[0][0], np.stack(images + images[-1:] * (length - len(images)))
        window.popleft()


def _batches(frames: Iterator, batch_size: int) -> Iterator[list]:
    batch = []
    for item in frames:
        batch.append(item)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _encode(encoder, batch, bar) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    outputs = encoder.frames(np.stack([image for _, image in batch]))
    bar.update(len(batch))
    timestamps = np.array([timestamp for timestamp, _ in batch], np.int64)
    return outputs["features"].numpy(), outputs["embeddings"].numpy(), timestamps


def save(path: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes an `.npz` aside and renames it.

    Raises:
      errors.UserError: the path does not end in .npz or cannot be written.
    """
    if not path.endswith(".npz"):
        raise errors.FlagError(f"--output={path}: must end in .npz")
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        temporary = f"{path}.tmp.npz"
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        raise errors.UserError(f"--output={path}: cannot be written: {error.strerror}") from error
