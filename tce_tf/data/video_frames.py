"""Which frames does evaluation look at? Evenly spaced whole ones, every video in order."""

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf.data import decoding, sampling, shard_reader, steps
from tce_tf.errors import UserError


def frames_dataset(
    reader: shard_reader.ShardReader, *, frames_per_video: int = 8
) -> tf.data.Dataset:
    """Evenly spaced whole frames of every video, in the reader's order, for evaluation.

    Args:
      reader: the shards.
      frames_per_video: T.

    Returns:
      One element a video: `frames` uint8 [T, H, W, 3], H and W the video's own; `label` int64
      scalar, -1 for none; `video_index` int64 scalar, the bank row. An unreadable frame is logged
      and replaced by the nearest readable one; a video without any is a `UserError`, raised
      inside `pipeline.user_errors()`.
    """

    def load_video(video):
        numbers = sampling.evenly_spaced_frames(int(reader.num_frames[video]), frames_per_video)
        shape = (frames_per_video, int(reader.heights[video]), int(reader.widths[video]), 3)
        frames = np.empty(shape, np.uint8)
        problems = decoding.for_each_frame(
            reader, np.full(frames_per_video, video), numbers, frames.__setitem__
        )
        readable = np.flatnonzero([problem is None for problem in problems])
        for i, problem in enumerate(problems):
            if problem is not None:
                if not readable.size:
                    raise UserError(f"no readable frame: {problem}; make these shards again")
                logging.warning("unreadable, the nearest frame takes its place: %s", problem)
                frames[i] = frames[readable[np.argmin(np.abs(readable - i))]]
        return frames, np.int64(reader.labels[video]), np.int64(reader.rows[video])

    def load(video):
        frames, label, row = tf.numpy_function(load_video, [video], [tf.uint8, tf.int64, tf.int64])
        return {
            "frames": tf.ensure_shape(frames, [frames_per_video, None, None, 3]),
            "label": tf.ensure_shape(label, []),
            "video_index": tf.ensure_shape(row, []),
        }

    videos = tf.data.Dataset.range(len(reader.num_frames))
    loaded = videos.map(load, num_parallel_calls=steps.PARALLEL_LOADS, deterministic=True)
    return loaded.prefetch(steps.PREFETCHED_LOADS).with_options(steps.input_options())
