"""What does an encoder make of each frame of some footage? Streamed, a batch of frames at a time.

found = footage.open_footage("videos")
head = collection_writer.describe(encoder, "exported/a", root=found.root, pool="none", versions={})
with collection_writer.open_writer("all.tfrecord", head) as writer:
    embedding.embed(encoder, found, writer)
collection.load("all.tfrecord")["embeddings"]
"""

import collections
import itertools
from collections.abc import Iterator

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import footage as footages
from tce_tf.data import pictures
from tce_tf.data import progress as progresses
from tce_tf.evaluation import video_features
from tce_tf.evaluation.collection import Rows
from tce_tf.evaluation.collection_writer import ArrayWriter
from tce_tf.evaluation.shard_writer import ShardWriter


def embed(
    encoder,
    footage: footages.Files | footages.Shards,
    writer: ArrayWriter | ShardWriter,
    *,
    pool: str = "none",
    batch_size: int = 32,
    max_rejected_fraction: float = 0.1,
    show_progress: bool = False,
) -> list[dict]:
    """Encodes every frame of some footage, but for what the writer holds already.

    An encoder of stacks gives a row a frame as well: of the stack that begins with it. Past the end of a
    video stands its last frame. Memory is that of a batch, whatever the length of a video; an
    `ArrayWriter` keeps all rows besides.

    Args:
      encoder: has `frames` and `image_shape`, as `serving.EncoderModule` or `loader.load_encoder`'s.
      footage: the videos.
      writer: takes the rows; open.
      pool: `none` for one row a frame, `video` for one row a video: the mean over its frames
        (embeddings of unit norm again; time stamp of the first frame).
      batch_size: frames encoded at once, fewer where they are very large (`pictures.batches`).
      max_rejected_fraction: of the videos; beyond it the rows of the others are kept and this raises.
      show_progress: a bar on a terminal, log lines otherwise.

    Returns:
      `path` and `reason` of the videos without one readable frame; the collection lists them too.

    Raises:
      errors.UserError: no readable video, too many unreadable ones, or the writer's.
    """
    pending = []
    for number, name in enumerate(footage.names):
        start = writer.rows_stored(name, footage.stamp(number))
        if start is not None:
            pending.append((number, start))
    found = len(footage.names) - len(pending)
    if found:
        logging.info("%d of %d videos are embedded already", found, len(footage.names))
    shown = progresses.Progress(len(pending), "videos") if show_progress else None
    rejected = [{"path": path, "reason": reason} for path, reason in footage.rejected]
    for number, start in pending:
        name = footage.names[number]
        writer.begin(name, footage.sources[number], footage.stamp(number))
        bar = _VideoBar(shown, footage, number, start)
        try:
            rows = _rows(encoder, footage.frames(number), start, pool, batch_size, bar)
            count = start
            for part in rows:
                writer.add(part)
                count += len(part.timestamps)
        except footages.VideoError as error:
            reason = " ".join(str(error).split())
            rejected.append({"path": footage.sources[number] or name, "reason": reason})
            logging.warning("rejected: %s: %s", rejected[-1]["path"], reason)
        bar.close()
    if shown:
        shown.close()
    total = len(footage.names) + len(footage.rejected)
    too_many = len(rejected) == total or len(rejected) > max_rejected_fraction * total
    writer.finish(rejected, is_complete=not too_many)
    if too_many:
        raise _too_many(footage.root, total, rejected, max_rejected_fraction)
    return rejected


def _too_many(root, total, rejected, max_rejected_fraction) -> errors.UserError:
    if not total:
        return errors.UserError(f"{root}: holds no video")
    counts = ""
    if len(rejected) == total > 1:
        counts = f"not one of {total} videos can be read; first: "
    elif total > 1:
        counts = (
            f"{len(rejected)} of {total} videos cannot be read, more than --max_rejected_fraction="
            f"{max_rejected_fraction:g}; the others are kept; first: "
        )
    first = rejected[0]
    return errors.UserError(f"{root}: {counts}{first['path']}: {first['reason']}")


def embed_one(encoder, footage, *, batch_size: int = 32) -> Rows:
    """One row of the only video or picture in some footage: the mean over its frames.

    Raises:
      errors.UserError: it holds several, or none that can be read.
    """
    if len(footage.names) != 1:
        raise errors.UserError(f"{footage.root}: holds {len(footage.names)} videos: name one")
    if video_features.stack_frames(encoder) > 1 and footage.num_frames(0) == 1:
        raise errors.UserError(
            f"{footage.root}: {footage.sources[0]}: is one picture, and the encoder sees motion: name "
            "a video"
        )
    try:
        (rows,) = _rows(encoder, footage.frames(0), 0, "video", batch_size)
    except footages.VideoError as error:
        raise errors.UserError(f"{footage.root}: {footage.sources[0]}: {error}") from error
    return rows


def _rows(encoder, frames, start: int, pool: str, batch_size: int, bar=None) -> Iterator[Rows]:
    """The rows of a video from frame `start` on, a batch at a time; a single one for pool `video`.

    Raises:
      VideoError: not one frame can be read.
    """
    # Frames that were encoded by an earlier run are decoded again and passed over: only so are
    # their number and their batches the same, and decoding is the cheap part.
    images = itertools.islice(frames, start, None)
    stack_frames = video_features.stack_frames(encoder)
    if stack_frames > 1:
        images = _stacks(images, stack_frames)
    encoded = _encode(encoder, images, batch_size, bar)
    return iter([_mean(encoded)]) if pool == "video" else encoded


def _encode(encoder, images, batch_size, bar) -> Iterator[Rows]:
    for batch in pictures.batches(images, batch_size):
        timestamps, pixels = zip(*batch, strict=True)
        outputs = encoder.frames(np.stack(pixels))
        if bar:
            bar.add(len(batch))
        yield Rows(
            features=np.asarray(outputs["features"], np.float32),
            embeddings=np.asarray(outputs["embeddings"], np.float32),
            timestamps=np.array(timestamps, np.int64),
        )


def _mean(parts: Iterator[Rows]) -> Rows:
    first, count = None, 0
    sums = {"features": 0.0, "embeddings": 0.0}
    for rows in parts:
        first = rows if first is None else first
        count += len(rows.timestamps)
        for name in sums:
            sums[name] = sums[name] + getattr(rows, name).sum(axis=0, dtype=np.float64)
    embedding = sums["embeddings"] / np.linalg.norm(sums["embeddings"])
    return Rows(
        features=np.float32(sums["features"] / count)[np.newaxis],
        embeddings=np.float32(embedding)[np.newaxis],
        timestamps=first.timestamps[:1],
    )


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


class _VideoBar:
    """Moves a bar of videos by parts of a video: a single one may take hours."""

    def __init__(self, shown, footage, number: int, start: int):
        self._shown = shown
        self._left = 1.0
        self._frames = max(footage.num_frames(number) - start, 0) if shown else 0

    def add(self, frames: int) -> None:
        if self._shown:
            part = min(frames / self._frames, self._left) if self._frames else 0.0
            self._left -= part
            self._shown.add(frames, part)

    def close(self) -> None:
        if self._shown:
            self._shown.add(0, self._left)
