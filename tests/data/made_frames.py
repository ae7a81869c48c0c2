"""Frames and draws that the tests of the views are fed with."""

import numpy as np
import tensorflow as tf

from tce_tf.data import sampling


def natural_image(seed, size=48):
    """Smooth and moderately coloured, as frames are: float64 [S, S, 3], multiples of 1/255."""
    coarse = np.random.default_rng(seed).normal(0, 1, (6, 6, 4))
    smooth = tf.image.resize(coarse, [size, size], "bicubic").numpy().astype(np.float64)
    image = 0.45 + 0.22 * smooth[..., :1] + 0.07 * smooth[..., 1:]
    return np.round(np.clip(image, 0, 1) * 255) / 255


def random_batch(side, *, count=16, width=None, sizes=None, epoch=0):
    rng = np.random.default_rng(1)
    shape = (count, side, width or side, 3)
    batch = {f"{view}_frames": rng.integers(0, 256, shape, np.uint8) for view in sampling.VIEWS}
    batch["draws"] = sampling.uniform_draws(0, epoch, np.arange(count))[1]
    batch["video_index"] = np.arange(count) * 3
    if sizes is not None:
        batch["frame_sizes"] = np.array(sizes, np.int32)
    return {name: tf.constant(array) for name, array in batch.items()}


def neutral_draws(count, **columns):
    """Draws that leave colours and geometry as they are, but for the columns named."""
    draws = np.full((count, sampling.NUM_DRAWS), 0.5, np.float32)
    defaults = {"rotation": 0, "flip": 0.75, "rotated_flip": 0.75}
    defaults |= {f"{view}_grey": 0.75 for view in sampling.VIEWS}
    for name, values in (defaults | columns).items():
        draws[:, sampling.VIEW_COLUMN[name]] = values
    return tf.constant(draws)
