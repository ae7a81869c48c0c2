"""Which frames of some footage are shown, and what does each encoder make of them? Streamed.

    footage = footage.open_footage("videos")
    (found,) = collection.collect({"exported/a": encoder}, footage, max_frames=1000)
    places = projection.project(found.vectors)

Each video is decoded once, from front to back. Of a long one every n-th frame is kept, so that
neighbours on a path are the same time apart and memory does not grow with the footage.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import footage as footages
from tce_tf.data import pictures, progress
from tce_tf.evaluation import neighbours, video_features

_FEWEST_FRAMES = 8  # of a video: fewer make no path, so rather some videos are left out
_JPEG_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class Collection:
    """Frames of V videos, n in all, and one encoder's vectors of them.

    Attributes:
      encoder: how it was named.
      vectors: float32 [n, F], unit norm; frames of a video stand together, in order.
      names: of the videos, V.
      labels: class name or None, V.
      video_of_frame: int64 [n], the video's place in `names`.
      timestamps: int64 [n], microseconds from the video's start.
      thumbnails: n JPEG files, none larger than asked.
      steps: int64 [V], how many frames of the video one kept frame stands for.
    """

    encoder: str
    vectors: np.ndarray
    names: Sequence[str]
    labels: Sequence[str | None]
    video_of_frame: np.ndarray
    timestamps: np.ndarray
    thumbnails: Sequence[bytes]
    steps: np.ndarray

    def paths(self) -> list[np.ndarray]:
        """The frame numbers, int64 [T], of each video."""
        return [np.flatnonzero(self.video_of_frame == video) for video in range(len(self.names))]


def collect(
    encoders: Mapping[str, object],
    footage: footages.Files | footages.Shards,
    *,
    max_frames: int,
    representation: str = "features",
    thumbnail_side: int = 96,
    batch_size: int = 32,
    show_progress: bool = False,
) -> list[Collection]:
    """Encodes evenly chosen frames of some footage. What cannot be read is logged and left out.

    Args:
      encoders: name -> encoder, as in `embedding.embed`. They see the same frames; one that takes stacks
        gets the frames after it too.
      footage: the videos. Where there are too many for `max_frames`, evenly chosen ones are taken.
      max_frames: n at most, shared evenly between the videos.
      representation: features (before the projection head) or embeddings (after it).
      thumbnail_side: longer side of a thumbnail at most, px.
      batch_size: frames encoded at once.
      show_progress: a bar on a terminal, log lines otherwise.

    Returns:
      One collection an encoder, in their order; all but name and vectors are the same objects.

    Raises:
      errors.UserError: not one video can be read, or an encoder's vectors are not finite.
    """
    total = len(footage.names)
    count = min(total, max(max_frames // _FEWEST_FRAMES, 1))
    if count < total:
        logging.info("%d of %d videos are shown: --max_frames=%d", count, total, max_frames)
    chosen = [i * total // count for i in range(count)]
    shown = progress.Progress(count, "videos") if show_progress else None
    reader = _Reader(encoders, representation, thumbnail_side, batch_size)
    names, labels, videos = [], [], []
    faults = [f"{path}: {reason}" for path, reason in footage.rejected]
    for number in chosen:
        name = footage.names[number]
        try:
            frames = footage.frames(number)
            video = reader.read(frames, max_frames // count, footage.num_frames(number))
        except footages.VideoError as error:
            faults.append(f"{name}: {' '.join(str(error).split())}")
            logging.warning("left out: %s", faults[-1])
            continue
        names.append(name)
        labels.append(footage.labels[number])
        videos.append(video)
        if shown:
            shown.add(len(video.kept))
    if shown:
        shown.close()
    if not videos:
        raise errors.UserError(
            f"{footage.root}: no video that can be read; {'; '.join(faults[:1])}"
        )
    kept = [frame for video in videos for frame in video.kept]
    shared = {
        "names": names,
        "labels": labels,
        "video_of_frame": np.repeat(np.arange(len(videos)), [len(x.kept) for x in videos]),
        "timestamps": np.array([frame.timestamp for frame in kept], np.int64),
        "thumbnails": [frame.thumbnail for frame in kept],
        "steps": np.array([video.step for video in videos], np.int64),
    }
    found = []
    for place, encoder in enumerate(encoders):
        try:
            vectors = neighbours.unit_rows(np.stack([frame.vectors[place] for frame in kept]))
        except ValueError as error:
            raise errors.UserError(f"--encoder={encoder}: its {error}") from error
        found.append(Collection(encoder, vectors, **shared))
    return found


@dataclasses.dataclass(frozen=True)
class _Frame:
    """A kept frame; `vectors` holds a float32 [F] an encoder."""

    timestamp: int
    thumbnail: bytes
    vectors: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Video:
    kept: list[_Frame]
    step: int


class _Reader:
    """Turns a stream of frames into a few kept ones."""

    def __init__(self, encoders, representation, thumbnail_side, batch_size):
        self._encoders = list(encoders.values())
        self._stacks = [video_features.stack_frames(encoder) for encoder in self._encoders]
        self._representation = representation
        self._side = thumbnail_side
        self._batch_size = batch_size

    def read(self, frames: Iterator, limit: int, expected: int) -> _Video:
        """Keeps at most `limit` frames of a stream of about `expected` (0: not known)."""
        limit = max(limit, 1)
        # A wrong guess costs work or points, never memory.
        step = max(-(-expected // limit), 1)
        kept: list[_Frame] = []
        numbered = enumerate(_windows(frames, max(self._stacks)))
        while True:
            wanted = (window for number, window in numbered if number % step == 0)
            room = min(self._batch_size, limit + 1 - len(kept))
            batch = next(pictures.batches(wanted, room, image_of=lambda window: window[0][1]), [])
            kept += self._encode(batch) if batch else []
            if len(kept) <= limit:
                if not batch:
                    return _Video(kept, step)
                continue
            kept = kept[::2]
            step *= 2

    def _encode(self, batch: list) -> list[_Frame]:
        outputs = []
        for encoder, length in zip(self._encoders, self._stacks, strict=True):
            if length == 1:
                images = [window[0][1] for window in batch]
            else:
                images = [_stack([image for _, image in window], length) for window in batch]
            found = encoder.frames(np.stack(images))[self._representation]
            outputs.append(np.asarray(found, np.float32))
        return [
            _Frame(window[0][0], self._thumbnail(window[0][1]), list(vectors))
            for window, *vectors in zip(batch, *outputs, strict=True)
        ]

    def _thumbnail(self, image: np.ndarray) -> bytes:
        height, width = image.shape[:2]
        share = min(self._side / max(height, width), 1)
        small = pictures.resize(image, max(round(height * share), 1), max(round(width * share), 1))
        return pictures.encode_jpeg(small, _JPEG_QUALITY)


def _windows(frames: Iterator, length: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    """For each frame (timestamp, image) a list of it and up to `length` - 1 frames after it."""
    window: collections.deque = collections.deque()
    for item in frames:
        window.append(item)
        if len(window) == length:
            yield list(window)
            window.popleft()
    while window:
        yield list(window)
        window.popleft()


def _stack(images: list[np.ndarray], length: int) -> np.ndarray:
    """uint8 [length, H, W, 3] of up to `length` images; past the end stands the last one."""
    images = images[:length]
    return np.stack(images + images[-1:] * (length - len(images)))
