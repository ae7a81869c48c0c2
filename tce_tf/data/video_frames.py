"""Which frames does evaluation look at? Whole ones, every video in order, one by one or in stacks."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf.data import decoding, sampling, shard_reader, steps
from tce_tf.errors import UserError


def evenly_spaced_images(num_frames: int, count: int, *, stack_frames: int = 1) -> np.ndarray:
    """Frame numbers of `count` images spread evenly over a video.

    Args:
      num_frames: of the video.
      count: images wanted; a video too short for them gives some more than once.
      stack_frames: consecutive frames an image is made of; 1 for an ordinary image.

    Returns:
      int64 [count], or [count, stack_frames] for stacks. Past the end stands the last frame.
    """
    firsts = sampling.evenly_spaced_frames(max(num_frames - stack_frames + 1, 1), count)
    return _images_at(firsts, num_frames, stack_frames)


def consecutive_images(num_frames: int, count: int, *, stack_frames: int = 1) -> np.ndarray:
    """Frame numbers of `count` consecutive images in the middle of a video, or all if it has fewer.

    Stacks start one frame after the other. Arguments and result as in `evenly_spaced_images`.
    """
    places = max(num_frames - stack_frames + 1, 1)
    count = min(count, places)
    return _images_at((places - count) // 2 + np.arange(count), num_frames, stack_frames)


def _images_at(firsts, num_frames, stack_frames):
    if stack_frames == 1:
        return firsts
    return np.minimum(firsts[:, np.newaxis] + np.arange(stack_frames), num_frames - 1)


def frames_dataset(
    reader: shard_reader.ShardReader,
    *,
    frames_per_video: int = 10,
    stack_frames: int = 1,
    consecutive: bool = False,
    videos: Sequence[int] | None = None,
) -> tf.data.Dataset:
    """Whole frames of every video, in the reader's order, for evaluation.

    Args:
      reader: the shards.
      frames_per_video: T.
      stack_frames: S, consecutive frames an image is made of.
      consecutive: take images that follow each other, up to T, rather than T evenly spaced ones.
      videos: positions in the reader's list; all by default.

    Returns:
      One element a video: `frames` uint8 [T, H, W, 3], or [T, S, H, W, 3] for S > 1, H and W the
      video's own; `label` int64 scalar, -1 for none; `video_index` int64 scalar, the bank row. An
      unreadable frame is logged and replaced by the nearest readable one; a video without any is
      a `UserError`, raised inside `pipeline.user_errors()`.
    """
    choose = consecutive_images if consecutive else evenly_spaced_images

    def load_video(video):
        numbers = choose(int(reader.num_frames[video]), frames_per_video, stack_frames=stack_frames)
        # Stacks overlap, and short videos repeat frames: each is read once.
        read, position = np.unique(numbers, return_inverse=True)
        frames = np.empty(
            (len(read), int(reader.heights[video]), int(reader.widths[video]), 3), np.uint8
        )
        problems = decoding.for_each_frame(
            reader, np.full(len(read), video), read, frames.__setitem__
        )
        readable = np.flatnonzero([problem is None for problem in problems])
        for i, problem in enumerate(problems):
            if problem is not None:
                if not readable.size:
                    raise UserError(f"no readable frame: {problem}; run make_tfrecords again")
                logging.warning("unreadable, the nearest frame takes its place: %s", problem)
                frames[i] = frames[readable[np.argmin(np.abs(read[readable] - read[i]))]]
        images = frames[position.reshape(numbers.shape)]
        return images, np.int64(reader.labels[video]), np.int64(reader.rows[video])

    def load(video):
        frames, label, row = tf.numpy_function(load_video, [video], [tf.uint8, tf.int64, tf.int64])
        stack = [] if stack_frames == 1 else [stack_frames]
        length = None if consecutive else frames_per_video
        return {
            "frames": tf.ensure_shape(frames, [length, *stack, None, None, 3]),
            "label": tf.ensure_shape(label, []),
            "video_index": tf.ensure_shape(row, []),
        }

    chosen = np.arange(len(reader.num_frames)) if videos is None else np.asarray(videos)
    dataset = tf.data.Dataset.from_tensor_slices(chosen.astype(np.int64))
    loaded = dataset.map(load, num_parallel_calls=steps.PARALLEL_LOADS, deterministic=True)
    return loaded.prefetch(steps.PREFETCHED_LOADS).with_options(steps.input_options())
