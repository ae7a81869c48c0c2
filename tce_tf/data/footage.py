"""Which videos does an input hold, whatever its kind, and what are their frames?

An input is a video file, a picture, a folder of videos or of frames, a CSV list of them, or a folder of
shards. Where a video was found is kept as a root and a path below it, so that it is found again.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import (
    decoding,
    layouts,
    pictures,
    remote,
    run_state,
    shard_reader,
    storage,
    video,
    video_source,
)
from tce_tf.data import manifest as manifests
from tce_tf.data.pictures import VideoError

_READ_FRAMES = 32  # of a shard in one call, fewer where they are very large


class Files:
    """Videos, pictures and frame folders on a local disk.

    Attributes:
      root: absolute path of the folder that `sources` are relative to.
      names: stable, one a video.
      sources: path below the root, one a video.
      labels: class name or None, one a video.
      rejected: (path, reason) of what the input lists and cannot become a video.
    """

    def __init__(
        self,
        root: str,
        names: Sequence[str],
        sources: Sequence[str],
        rejected: Sequence[tuple[str, str]] = (),
        labels: Sequence[str | None] | None = None,
    ):
        self.root = os.path.abspath(root)
        self.names, self.sources = list(names), list(sources)
        self.labels = [None] * len(self.names) if labels is None else list(labels)
        self.rejected = list(rejected)

    def path(self, number: int) -> str:
        """Where a video lies."""
        return os.path.join(self.root, self.sources[number])

    def frames(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """A video's frames as (microseconds, uint8 [H, W, 3]); what is damaged is left out.

        Raises:
          VideoError: not one frame can be read.
        """
        path = self.path(number)
        if is_picture(path):
            try:
                image = pictures.load_picture(path)
            except VideoError as error:  # the caller names the file, as it does a video's
                raise VideoError(str(error).removeprefix(f"{os.path.basename(path)}: ")) from error
            yield 0, image
        else:
            yield from video.iterate_frames(path)

    def frame_at(self, number: int, timestamp: int) -> np.ndarray:
        """The frame, uint8 [H, W, 3], that is shown at a time in microseconds.

        It may be the one beside it where a file's own clock does not start with its first frame.

        Raises:
          VideoError: the video is gone, or has no readable frame.
        """
        path = self.path(number)
        if not os.path.exists(path):
            raise VideoError(f"{path} does not exist")
        if is_picture(path):
            return pictures.load_picture(path)
        try:
            return next(video.iterate_frames(path, start_us=timestamp))[1]
        except VideoError:
            # A file whose own clock starts later than its first frame seeks past the last ones.
            return next(video.iterate_frames(path))[1]

    def num_frames(self, number: int) -> int:
        """About how many frames a video has; 0 where its header does not say."""
        path = self.path(number)
        try:
            return 1 if is_picture(path) else video.probe(path).num_frames
        except VideoError:
            return 0  # whether it can be read is found out when it is decoded

    def stamp(self, number: int) -> list:
        """What changes when a video is replaced."""
        return run_state.stamp(self.path(number))


class Shards:
    """The videos of a shard folder, local or remote; attributes and functions as `Files`.

    Their `sources` are None: a video is found by its name.
    """

    def __init__(self, folder: str):
        self.root = folder if remote.is_remote(folder) else os.path.abspath(folder)
        self._reader = shard_reader.ShardReader([folder])
        self.names = list(self._reader.names)
        self.sources = [None] * len(self.names)
        classes = [*self._reader.class_names, None]  # -1: none
        self.labels = [classes[label] for label in self._reader.labels]
        self.rejected: list[tuple[str, str]] = []
        self._checksums = [entry["checksum"] for entry in manifests.read(folder).videos]

    def frames(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """As `Files.frames`."""
        timestamps = self._reader.timestamps(number).tolist()
        fault, count = "", 0
        pixels = int(self._reader.heights[number]) * int(self._reader.widths[number])
        at_once = max(1, min(_READ_FRAMES, pictures.MAX_SOURCE_PIXELS // pixels))
        for first in range(0, len(timestamps), at_once):
            frames = np.arange(first, min(first + at_once, len(timestamps)))
            images: list = [None] * len(frames)
            problems = decoding.for_each_frame(
                self._reader, np.full(len(frames), number), frames, images.__setitem__
            )
            for frame, image, problem in zip(frames, images, problems, strict=True):
                if problem is None:
                    count += 1
                    yield timestamps[frame], image
                    continue
                logging.warning("left out: %s", problem)
                fault = fault or problem
        if not count:
            raise VideoError(fault)

    def frame_at(self, number: int, timestamp: int) -> np.ndarray:
        """As `Files.frame_at`."""
        frame = int(np.searchsorted(self._reader.timestamps(number), timestamp))
        frame = min(frame, int(self._reader.num_frames[number]) - 1)
        images: list = [None]
        (problem,) = decoding.for_each_frame(self._reader, [number], [frame], images.__setitem__)
        if problem is not None:
            raise VideoError(problem)
        return images[0]

    def num_frames(self, number: int) -> int:
        """As `Files.num_frames`, exactly."""
        return int(self._reader.num_frames[number])

    def stamp(self, number: int) -> list:
        """As `Files.stamp`."""
        return [self._checksums[number]]


def is_picture(path: str) -> bool:
    """Whether a path is that of a picture file, by its name."""
    extension = os.path.splitext(path)[1].lower()
    return extension in video_source.PICTURE_EXTENSIONS and not os.path.isdir(path)


def is_shards(path: str) -> bool:
    """Whether a folder holds shards."""
    return storage.size(storage.join(path, manifests.FILE_NAME)) is not None


def open_footage(path: str, *, flag: str = "input") -> Files | Shards:
    """The videos behind a path.

    Args:
      path: video file, picture, folder, CSV list or shard folder; only shards may be remote.
      flag: that named the path, for messages.

    Raises:
      errors.UserError: nothing there, or a shard folder that cannot be used.
    """
    if is_shards(path):
        return Shards(path)
    remote.require_local(path, flag, "shards, or a video or folder")
    if not os.path.exists(path):
        raise errors.UserError(f"--{flag}={path} does not exist")
    if os.path.isfile(path) and not path.lower().endswith(".csv"):
        folder, source = os.path.split(os.path.abspath(path))
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raise errors.UserError(f"--{flag}={path}: its name is not UTF-8: rename it") from error
        return Files(folder, [layouts.stem(source)], [source])
    listing = layouts.list_clips(path)
    paths = [os.path.abspath(clip.path) for clip in listing.clips]
    root = os.path.abspath(path)
    if os.path.isfile(path):  # a CSV file
        root = os.path.dirname(root)
    return Files(
        root,
        [clip.name for clip in listing.clips],
        [os.path.relpath(found, root) for found in paths],
        listing.rejected,
        [clip.label_text for clip in listing.clips],
    )
