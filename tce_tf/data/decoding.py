"""How do stored JPEG frames become uint8 arrays? Read in one call, decoded in threads.

A bad frame raises nothing: it is reported by name, so that the caller decides.

libjpeg-turbo through simplejpeg rather than `tf.io.decode_jpeg`: the pixels are those of
`dct_method="INTEGER_ACCURATE"` (a test compares them), at the same CPU time as a parallel map in a
tf.data graph, but a damaged image costs one sample instead of an error for the whole batch, and
damage that TensorFlow passes over in silence is noticed.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent import futures

import numpy as np
import simplejpeg

from tce_tf.data import pictures, shard_reader


def decode_jpeg(jpeg: bytes) -> np.ndarray:
    """Pixels of a JPEG: uint8 [H, W, 3] RGB in [0, 255]; grey and CMYK images become RGB.

    Raises:
      ValueError: not a JPEG, or damaged in any way that libjpeg notices.
    """
    return simplejpeg.decode_jpeg(jpeg, colorspace="RGB")


def for_each_frame(
    reader: shard_reader.ShardReader,
    videos: Sequence[int],
    frames: Sequence[int],
    use: Callable[[int, np.ndarray], None],
) -> list[str | None]:
    """Reads and decodes frames and hands each to `use(i, pixels)`, from several threads at once.

    Args:
      reader: where the frames are.
      videos: [n], positions in the reader's list of videos.
      frames: [n], frame numbers.
      use: called once for every readable frame i with uint8 [H, W, 3], H and W as in the index.

    Returns:
      One entry per frame: None, or why it is unreadable, naming video and frame.
    """
    jpegs = _read(reader, np.asarray(videos), np.asarray(frames))
    problems: list[str | None] = [None] * len(jpegs)

    def work(numbers):
        for i in numbers:
            try:
                if isinstance(jpegs[i], shard_reader.FrameError):
                    raise jpegs[i]
                use(i, _decode_as_indexed(reader, int(videos[i]), int(frames[i]), jpegs[i]))
            except shard_reader.FrameError as error:
                problems[i] = str(error)

    # A few frames a task: handing over a task costs about a tenth of decoding a frame.
    tasks = [range(first, min(first + 4, len(jpegs))) for first in range(0, len(jpegs), 4)]
    for _ in _pool().map(work, tasks):
        pass
    return problems


def _read(reader, videos, frames) -> list[bytes | shard_reader.FrameError]:
    """JPEG bytes in one call; one call a frame when that fails, to find the ones to blame."""
    try:
        return reader.read_frames(videos, frames)
    except shard_reader.FrameError:
        pass
    results = []
    for i in range(len(videos)):
        try:
            results += reader.read_frames(videos[i : i + 1], frames[i : i + 1])
        except shard_reader.FrameError as error:
            results.append(error)
    return results


def _decode_as_indexed(reader, video: int, frame: int, jpeg: bytes) -> np.ndarray:
    """Decodes a frame and checks its size, for which room was made from the index.

    Raises:
      FrameError: damaged, or of another size.
    """
    expected = int(reader.heights[video]), int(reader.widths[video])
    # Before room is made for what it claims; simplejpeg's own fails on chroma as 4:4:1.
    header = pictures.read_jpeg_header(jpeg)
    found = header and (header.height, header.width)
    try:
        if found == expected:
            image = decode_jpeg(jpeg)
            found = image.shape[:2]
        if found == expected:
            return image
        problem = "not a JPEG"
        if found:
            problem = f"{found[0]}x{found[1]} pixels, {expected[0]}x{expected[1]} indexed"
    except ValueError as error:
        problem = str(error)
    folder = reader.folders[int(reader.folder_of[video])]
    raise shard_reader.FrameError(
        f"frame {frame} of video {reader.names[video]} in {folder}: {problem}", video, frame
    )


@functools.cache
def _pool() -> futures.ThreadPoolExecutor:
    """Decoding threads of this process, one per core it may use; simplejpeg releases the GIL."""
    return futures.ThreadPoolExecutor(
        len(os.sched_getaffinity(0)), thread_name_prefix="decode_frames"
    )
