"""How are the colours of a view drawn? One affine map per image, laid over whole rows of pixels.

The colour chain is one affine map per image: channel grey, brightness, contrast and saturation are
affine maps of rgb as they are, and hue becomes a rotation about the grey axis of the RGB cube. That
equals the shift of the HSV hue at multiples of a third of a turn and is twice as close to it in
between as the usual rotation in YIQ. Unlike torchvision's chain, nothing is clipped to [0, 1]
between the operations, only after the last. Tests bound both differences.

In a row of interleaved pixels r g b r g b ... the channels that make up a new value lie at most two
places off. With one vector of factors per distance, zero where the neighbour belongs to another
pixel, the map is a few multiplications of whole rows that picks out no channel: on a CPU a fifth of
the time of the map plane by plane, if the rows lie in memory with their margins
(`augmentation.compile_training_views` sees to that).
"""

import itertools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

# TCE config: RandomApply of channel grey, and ColorJitter(0.5, 0.5, 0.5, 0.25).
GREY_PROB = 0.5
BRIGHTNESS = CONTRAST = SATURATION = 0.5
HUE_TURNS = 0.25

# Grey as PIL's mode "L" and torchvision weigh it.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# ColorJitter applies its operations in a random order.
_OPERATIONS = ("brightness", "contrast", "saturation", "hue")
ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)

# A rotation about the grey axis by an angle is grey + cos(angle) colour + sin(angle) turned.
_GREY_AXIS = np.full([3, 3], 1 / 3, np.float32)
_COLOUR = np.eye(3, dtype=np.float32) - _GREY_AXIS
_TURNED = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.float32(np.sqrt(3))

# How far off in a row a channel of the same pixel may be.
_REACH = 2


def jitter_colours(images: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Channel grey, then colour jitter, as one affine map per image and one clip.

    Args:
      images: [B, H, W, 3] in [0, 255], uint8 or float32.
      draws: float32 [B] in [0, 1) under each of `sampling.COLOUR_COLUMNS`.

    Returns:
      float32 [B, H, W, 3] in [0, 1].
    """
    return as_images(map_rows(padded(as_rows(images)), *row_maps(images, draws)))


def as_rows(images: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 3] to [B, H, 3 W]."""
    _, height, width, channels = images.shape
    return tf.reshape(images, [-1, height, width * channels])


def padded(rows: tf.Tensor) -> tf.Tensor:
    """Rows with a margin of zeros on both sides, for the neighbours of the outermost pixels."""
    return tf.pad(rows, [[0, 0], [0, 0], [_REACH, _REACH]])


def row_maps(images: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The colour maps of images [B, H, W, 3] in [0, 255]: factors [B, 5, 3 W], offsets [B]."""
    matrix, offset = colour_maps(_mean_colours(images) / 255, draws)
    nothing = tf.zeros_like(offset)
    factors = [
        [matrix[:, i, i + step] / 255 if 0 <= i + step < 3 else nothing for i in range(3)]
        for step in range(-_REACH, _REACH + 1)
    ]
    factors = tf.stack([tf.stack(by_channel, axis=-1) for by_channel in factors], axis=1)
    return tf.tile(factors, [1, 1, images.shape[2]]), offset


def map_rows(rows: tf.Tensor, factors: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Maps the colours of `padded` rows by `row_maps`: float32 [B, H, 3 W] in [0, 1]."""
    length = factors.shape[-1]
    mapped = offset[:, None, None]
    for step in range(2 * _REACH + 1):
        neighbours = tf.cast(rows[:, :, step : step + length], tf.float32)
        mapped += neighbours * factors[:, step, None]
    return tf.clip_by_value(mapped, 0.0, 1.0)


def as_images(rows: tf.Tensor) -> tf.Tensor:
    """[B, H, 3 W] to [B, H, W, 3]."""
    return tf.reshape(rows, [-1, rows.shape[1], rows.shape[2] // 3, 3])


def colour_maps(means: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The affine map of each image's colours: rgb -> matrix @ rgb + offset.

    Args:
      means: float32 [B, 3] in [0, 1], each image's mean colour, for the contrast.
      draws: float32 [B] in [0, 1) under each of `sampling.COLOUR_COLUMNS`.

    Returns:
      matrix float32 [B, 3, 3], and offset float32 [B], the same for the three channels.
    """
    is_grey = (draws["grey"] < GREY_PROB)[:, None, None]
    channel = tf.one_hot(tf.cast(draws["grey_channel"] * 3, tf.int32), 3)[:, None, :]
    matrix = tf.where(is_grey, tf.tile(channel, [1, 3, 1]), tf.eye(3))
    offset = tf.zeros_like(draws["grey"])
    means = tf.linalg.matvec(matrix, means)

    contrast = _factor(draws["contrast"], CONTRAST)
    steps = tf.stack(_operation_matrices(draws, contrast), axis=1)  # [B, 4, 3, 3]
    order = tf.gather(ORDERS, tf.cast(draws["order"] * len(ORDERS), tf.int32))  # [B, 4]
    for turn in range(len(_OPERATIONS)):
        chosen = tf.one_hot(order[:, turn], len(_OPERATIONS))  # [B, 4]
        step = tf.einsum("bk,bkij->bij", chosen, steps)
        # Contrast blends with the mean grey of the image as it is by then.
        is_contrast = chosen[:, _OPERATIONS.index("contrast")]
        shift = is_contrast * (1 - contrast) * tf.reduce_sum(means * LUMA, axis=-1)
        # Offsets are grey, which no step but brightness and contrast changes: rows have equal sums.
        offset = tf.reduce_sum(step[:, 0], axis=-1) * offset + shift
        means = tf.linalg.matvec(step, means) + shift[:, None]
        matrix = tf.matmul(step, matrix)
    return matrix, offset


def _operation_matrices(draws, contrast: tf.Tensor) -> list[tf.Tensor]:
    """The linear parts of the jitter, float32 [B, 3, 3] each, in the order of `_OPERATIONS`."""
    brightness, contrast, saturation = (
        factor[:, None, None]
        for factor in (
            _factor(draws["brightness"], BRIGHTNESS),
            contrast,
            _factor(draws["saturation"], SATURATION),
        )
    )
    identity = tf.eye(3)
    grey = tf.tile(LUMA[None], [3, 1])
    angle = (2 * np.pi * HUE_TURNS) * (2 * draws["hue"][:, None, None] - 1)
    return [
        brightness * identity,
        contrast * identity,
        saturation * identity + (1 - saturation) * grey,
        _GREY_AXIS + tf.cos(angle) * _COLOUR + tf.sin(angle) * _TURNED,
    ]


def _mean_colours(images: tf.Tensor) -> tf.Tensor:
    """Mean colours, float32 [B, 3], of images [B, H, W, 3].

    Lower half of the rows onto upper half, over and over: XLA on the CPU vectorises that, but not a
    reduction over H.
    """
    height, width = images.shape[1:3]
    sums = tf.cast(as_rows(images), tf.float32)
    half, odd = divmod(height, 2)
    while half and not odd:
        sums = sums[:, :half] + sums[:, half:]
        half, odd = divmod(half, 2)
    sums = tf.reshape(tf.reduce_sum(sums, axis=1), [-1, width, 3])
    return tf.reduce_sum(sums, axis=1) / (height * width)


def _factor(draw: tf.Tensor, spread: float) -> tf.Tensor:
    """Uniform in [0, 1) to uniform in [1 - spread, 1 + spread)."""
    return 1 + spread * (2 * draw - 1)
