"""A stand-in for ShardReader whose frames say which they are: for tests that need no files."""

import numpy as np
import simplejpeg

from tce_tf.data import shard_reader


class FakeReader:
    """Videos in memory; `pixels` says what their frames look like. Rows are 0, 2, 4, ...

    Attributes:
      damaged: {(video, frame)} that raise FrameError.
      garbled: {(video, frame)} whose bytes are no JPEG.
      num_calls, num_reads: read_frames calls and frames asked for.
    """

    folders = ["shards/fake"]
    class_names = ["a", "b"]

    def __init__(self, num_frames, sizes=(32, 40), *, first_row=0, textured=False):
        self.num_frames = np.array(num_frames, np.int64)
        count = len(self.num_frames)
        sizes = np.broadcast_to(np.array(sizes, np.int64), (count, 2))
        self.heights, self.widths = sizes[:, 0].copy(), sizes[:, 1].copy()
        self.names = [f"video{i:03d}" for i in range(count)]
        self.rows = first_row + 2 * np.arange(count, dtype=np.int64)
        self.num_rows = first_row + 2 * count
        self.labels = np.arange(count, dtype=np.int64) % 2
        self.groups = [None] * count
        self.folder_of = np.zeros(count, np.int64)
        self.damaged, self.garbled = set(), set()
        self.num_calls = self.num_reads = 0
        self._textured = textured

    def pixels(self, video, frame):
        """Uint8 [H, W, 3] before JPEG compression; flat, or with the position in red and green."""
        height, width = int(self.heights[video]), int(self.widths[video])
        image = np.empty((height, width, 3), np.uint8)
        if self._textured:
            image[..., 0] = np.arange(height)[:, None] * 4
            image[..., 1] = np.arange(width) * 4
            image[..., 2] = frame * 20
        else:
            image[:] = (video * 10, frame * 10, 128)
        return image

    def read_frames(self, videos, frames):
        self.num_calls += 1
        self.num_reads += len(videos)
        jpegs = []
        for video, frame in np.stack([videos, frames], axis=1).tolist():
            assert 0 <= frame < self.num_frames[video]
            if (video, frame) in self.damaged:
                raise shard_reader.FrameError(
                    f"cannot read frame {frame} of video {self.names[video]}", video, frame
                )
            jpeg = simplejpeg.encode_jpeg(self.pixels(video, frame), 100, colorsubsampling="444")
            jpegs.append(b"junk" if (video, frame) in self.garbled else jpeg)
        return jpegs


def shown(image):
    """Video and frame number that a flat frame of the FakeReader shows."""
    return tuple(np.round(image[..., :2].mean((0, 1)) / 10).astype(int).tolist())
