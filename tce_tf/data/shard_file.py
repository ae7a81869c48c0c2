"""How are many small ranges of shards read at once, from a disk or from an object store?

On a disk each is one `pread`. A store answers a request in some 10-50 ms whatever its size, so
neighbouring ranges are fetched in one and many requests are in flight at once.
"""

import concurrent.futures
import functools
import io
import os
from collections.abc import Sequence

import numpy as np

from tce_tf import errors
from tce_tf.data import remote, shard_format, storage

# Ranges of a remote shard with less than this between them are fetched as one. `GFile` reads half a
# megabyte ahead in any case.
_MERGED_BYTES = 2**18


class ShardFile:
    """One open shard and its index. Closed when the reader is garbage.

    Attributes:
      index: shard_format.INDEX_DTYPE [frames of the shard].
      is_remote: behind `s3://`, `gs://`, ...
    """

    def __init__(self, path: str, index_path: str, num_frames: int):
        self.index = _load_index(index_path, num_frames)
        self.is_remote = remote.is_remote(path)
        self._path = path
        self._descriptor = None
        if not self.is_remote:
            try:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise errors.UserError(f"cannot read {path}: {error.strerror}") from error

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer at the end of the file.

        Raises:
          OSError: the disk or the remote store failed.
        """
        if self._descriptor is not None:
            # pread takes its own offset, so threads share the descriptor without a lock.
            return os.pread(self._descriptor, length, offset)
        with remote.as_os_errors(self._path):
            # A GFile has one position, so each read opens its own; that costs no request.
            with remote.gfile(self._path).GFile(self._path, "rb") as file:
                file.seek(offset)
                return file.read(length)

    def __del__(self):
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)


def read_ranges(ranges: Sequence[tuple[ShardFile, int, int]]) -> list[bytes | OSError]:
    """The bytes of many ranges.

    Args:
      ranges: (file, offset, length) in bytes; those of one file together, by ascending offset.

    Returns:
      For each its bytes (fewer at the end of the file), or why it could not be read.
    """
    found: list[bytes | OSError] = [b""] * len(ranges)
    waiting = []
    for group in _merged(ranges):
        file, start, _ = ranges[group[0]]
        stop = max(ranges[i][1] + ranges[i][2] for i in group)
        if file.is_remote:
            waiting.append((group, start, _requests().submit(_attempt, file, start, stop - start)))
        else:
            found[group[0]] = _attempt(file, start, stop - start)
    for group, start, request in waiting:
        data = request.result()
        for i in group:
            begin = ranges[i][1] - start
            found[i] = data if isinstance(data, OSError) else data[begin : begin + ranges[i][2]]
    return found


def _merged(ranges) -> list[list[int]]:
    """Positions that are read in one go: near neighbours of a remote file, else each by itself."""
    groups: list[list[int]] = []
    end = 0
    for i, (file, offset, length) in enumerate(ranges):
        near = file.is_remote and groups and ranges[groups[-1][0]][0] is file
        if near and offset - end < _MERGED_BYTES:
            groups[-1].append(i)
            end = max(end, offset + length)
        else:
            groups.append([i])
            end = offset + length
    return groups


def _attempt(file: ShardFile, offset: int, length: int) -> bytes | OSError:
    try:
        return file.read(offset, length)
    except OSError as error:
        return error


@functools.cache
def _requests() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(
        storage.REMOTE_THREADS, thread_name_prefix="remote_reads"
    )


def _load_index(path: str, num_frames: int) -> np.ndarray:
    """A shard's index: mapped when local, read when remote.

    Raises:
      errors.UserError: missing, damaged, or not as long as the manifest's videos.
    """
    content = io.BytesIO(storage.read_bytes(path)) if remote.is_remote(path) else path
    # An empty file cannot be mapped.
    mode = "r" if num_frames and not remote.is_remote(path) else None
    try:
        index = np.asarray(np.load(content, mmap_mode=mode, allow_pickle=False))
    # What a header makes NumPy raise is not only its ValueError: tokenize's errors, MemoryError, ...
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise errors.UserError(
            f"{path} is damaged ({reason}); delete it and run make_tfrecords again"
        ) from error
    if index.dtype != shard_format.INDEX_DTYPE or index.shape != (num_frames,):
        raise errors.UserError(
            f"{path} has {len(index) if index.ndim else 0} rows of {index.dtype}, its manifest has "
            f"{num_frames} frames; delete it and run make_tfrecords again"
        )
    return index
