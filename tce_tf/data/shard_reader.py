"""How does one read any frames of any videos, thousands a second, without reading whole records?

The index gives each frame's place inside its shard, so a frame costs one positioned read and a CRC.

    reader = shard_reader.ShardReader(["shards/train"])
    jpegs = reader.read_frames(videos=[0, 0, 7], frames=[3, 4, 11])
"""

import resource
import threading
import zlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import manifest as manifests
from tce_tf.data import shard_file, storage
from tce_tf.data.shard_file import ShardFile


class FrameError(Exception):
    """A frame that cannot be read back as it was written.

    Attributes:
      video: position of the video in the reader's lists.
      frame: frame number in the video.
    """

    def __init__(self, message: str, video: int, frame: int):
        super().__init__(message)
        self.video = video
        self.frame = frame


class ShardReader:
    """Positioned reads over one or more shard folders.

    Below, "video" is a position 0..V-1 in the lists, which hold the stored videos in order of their
    memory bank row.

    Attributes:
      folders: the shard folders, in the order given.
      class_names: names in label order, [] when no folder is labelled.
      num_rows: memory bank rows N over all folders, rows of rejected clips included.
      names: V stable names.
      rows: int64 [V] bank row: the folder's offset + `video_index`.
      num_frames: int64 [V].
      heights: int64 [V], px.
      widths: int64 [V], px.
      frame_rates: float64 [V], Hz.
      labels: int64 [V], -1 = none.
      groups: V names of scenes that must not be split over train and test, None = unknown.
      checksums: V SHA-256 of a video's JPEGs.
      folder_of: int64 [V] position in `folders`.
    """

    def __init__(self, folders: Sequence[str]):
        """Reads the manifests and compares every shard's length; opens no shard yet.

        Args:
          folders: shard folders, local or remote.

        Raises:
          errors.UserError: a folder is missing or has no manifest, the manifest is damaged or of
            another version, a shard's length differs from it, or two folders' classes differ.
        """
        if isinstance(folders, str) or not folders:
            raise errors.UserError("no shard folder given: name at least one folder of shards")
        self.folders = list(folders)
        self.class_names: list[str] = []
        self.num_rows = 0
        self._shard_paths: list[str] = []
        self._shard_lengths: list[int] = []
        self._index_paths: list[str] = []
        self._files: list[ShardFile | None] = []
        self._lock = threading.Lock()
        videos, rows, folder_of, shard_of = [], [], [], []
        for number, folder in enumerate(self.folders):
            manifest = manifests.read(folder)
            self._agree_on_classes(folder, manifest.class_names)
            first_shard = len(self._shard_paths)
            self._add_shards(folder, manifest)
            position = {s["file"]: first_shard + i for i, s in enumerate(manifest.shards)}
            videos += manifest.videos
            rows += [self.num_rows + video["video_index"] for video in manifest.videos]
            folder_of += [number] * len(manifest.videos)
            shard_of += [position[video["shard"]] for video in manifest.videos]
            self.num_rows += manifest.num_rows

        def column(key, dtype=np.int64):
            return np.array([video[key] for video in videos], dtype)

        self.names: list[str] = [video["name"] for video in videos]
        self.groups: list[str | None] = [video["group"] for video in videos]
        self.checksums: list[str] = [video["checksum"] for video in videos]
        self.rows = np.array(rows, np.int64)
        self.num_frames = column("num_frames")
        self.heights, self.widths = column("height"), column("width")
        self.frame_rates = column("frame_rate", np.float64)
        self.labels = np.array([-1 if v["label"] is None else v["label"] for v in videos], np.int64)
        self.folder_of = np.array(folder_of, np.int64)
        self._shard_of = np.array(shard_of, np.int64)
        self._set_index_starts()
        _allow_open_files(2 * len(self._shard_paths))

    def _agree_on_classes(self, folder: str, class_names: list[str]) -> None:
        if self.class_names and class_names and class_names != self.class_names:
            raise errors.UserError(
                f"{folder} has other classes ({_some(class_names)}) than the folders before it "
                f"({_some(self.class_names)}); make them with one class list (--split_dir)"
            )
        self.class_names = self.class_names or list(class_names)

    def _add_shards(self, folder: str, manifest: manifests.Manifest) -> None:
        sizes = storage.sizes(folder)
        for shard in manifest.shards:
            path, index = shard["file"], manifests.index_name(shard["file"])
            for name in (path, index):
                if name not in sizes:
                    raise errors.UserError(
                        f"{storage.join(folder, name)} is missing; run make_tfrecords again"
                    )
            if sizes[path] != shard["length"]:
                raise errors.UserError(
                    f"{storage.join(folder, path)} is {sizes[path]} bytes, its manifest says "
                    f"{shard['length']}; delete it and run make_tfrecords again"
                )
            self._shard_paths.append(storage.join(folder, path))
            self._shard_lengths.append(shard["length"])
            self._index_paths.append(storage.join(folder, index))
            self._files.append(None)

    def _set_index_starts(self) -> None:
        """Finds the index row of each video's first frame; a shard's index starts at 0."""
        starts = np.cumsum(self.num_frames) - self.num_frames  # [V], over all shards
        first_of_shard = np.searchsorted(self._shard_of, np.arange(len(self._shard_paths)))
        padded = np.append(starts, self.num_frames.sum())  # a shard may hold no video at all
        self._index_start = starts - padded[first_of_shard][self._shard_of]
        self._shard_frames = np.bincount(
            self._shard_of, weights=self.num_frames, minlength=len(self._shard_paths)
        ).astype(np.int64)

    def _open(self, shard: int) -> ShardFile:
        """The shard's open file, opened at its first use; safe from several threads."""
        file = self._files[shard]
        if file is None:
            with self._lock:
                file = self._files[shard]
                if file is None:
                    file = self._files[shard] = ShardFile(
                        self._shard_paths[shard],
                        self._index_paths[shard],
                        int(self._shard_frames[shard]),
                    )
        return file

    def read_frames(self, videos, frames) -> list[bytes]:
        """Reads frames by position; many a call is fastest. Safe from several threads.

        Args:
          videos: int [n] positions in the reader's lists.
          frames: int [n] frame numbers, 0 <= frame < num_frames[video].

        Returns:
          n JPEG files, byte for byte as stored, in the order asked.

        Raises:
          IndexError: no such video or frame.
          FrameError: the first frame that cannot be read or whose CRC does not match.
          errors.UserError: an index file is missing, damaged or does not fit its manifest.
        """
        videos, frames = np.asarray(videos, np.int64), np.asarray(frames, np.int64)
        if videos.shape != frames.shape or videos.ndim != 1:
            raise ValueError(
                f"videos {videos.shape} and frames {frames.shape} must be two [n] arrays"
            )
        if not len(videos):
            return []
        if videos.min() < 0 or videos.max() >= len(self.names):
            raise IndexError(f"video {videos.min()}..{videos.max()} of {len(self.names)}")
        outside = (frames < 0) | (frames >= self.num_frames[videos])
        if outside.any():
            video, frame = videos[outside][0], frames[outside][0]
            raise IndexError(
                f"frame {frame} of video {self.names[video]}, which has {self.num_frames[video]}"
            )
        shards, index_rows = self._shard_of[videos], self._index_start[videos] + frames
        # Frames of one shard together, in the order they lie on the disk.
        order = np.lexsort((index_rows, shards))
        ranges, crcs = [], []
        bounds = np.flatnonzero(np.diff(shards[order])) + 1
        for members in np.split(order, bounds):
            shard = int(shards[members[0]])
            file = self._open(shard)
            rows = file.index[index_rows[members]]
            beyond = rows["offset"] + rows["length"].astype(np.uint64) > self._shard_lengths[shard]
            # A sum of 64 bits may wrap around.
            beyond |= rows["offset"] > self._shard_lengths[shard]
            # A row of zeros, as a lost block of the disk leaves, has the checksum of no bytes.
            wrong = beyond | (rows["length"] == 0)
            if wrong.any():
                first = np.argmax(wrong)
                fault = "leads out of the file" if beyond[first] else "has no bytes for it"
                member = members[first]
                raise self._frame_error(videos[member], frames[member], f"its index {fault}")
            for offset, length, crc, _ in rows.tolist():
                ranges.append((file, offset, length))
                crcs.append(crc)
        jpegs: list[bytes] = [b""] * len(videos)
        found = shard_file.read_ranges(ranges)
        for member, (_, _, length), jpeg, crc in zip(
            order.tolist(), ranges, found, crcs, strict=True
        ):
            if isinstance(jpeg, OSError):
                raise self._frame_error(videos[member], frames[member], jpeg) from jpeg
            if len(jpeg) != length or zlib.crc32(jpeg) != crc:
                fault = "wrong checksum" if len(jpeg) == length else "the file ends before it"
                raise self._frame_error(videos[member], frames[member], fault)
            jpegs[member] = jpeg
        return jpegs

    def timestamps(self, video: int) -> np.ndarray:
        """A video's time stamps: int64 [T], microseconds from the start of its source."""
        index = self._open(int(self._shard_of[video])).index
        start = self._index_start[video]
        return index["timestamp"][start : start + self.num_frames[video]].astype(np.int64)

    def _frame_error(self, video, frame, fault) -> FrameError:
        return FrameError(
            f"cannot read frame {frame} of video {self.names[video]} "
            f"in {self._shard_paths[self._shard_of[video]]}: {fault}",
            int(video),
            int(frame),
        )


def _some(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _allow_open_files(needed: int) -> None:
    """Raises this process's limit of open files where the system lets it.

    A shard takes two (itself and its mapped index); 1024, the usual limit, is 130 GB of shards.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed + 512
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < wanted:
        logging.warning(
            "shards need %d open files, the system allows %d (ulimit -n)", wanted, allowed
        )
