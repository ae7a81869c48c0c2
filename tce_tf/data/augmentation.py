"""How do uint8 frames become the three views? On the device, from the draws of the batch alone.

Nothing here draws a random number, so the same batch gives the same views on every device, and all
of `training_views` compiles under XLA.

The colour chain is one affine map per image: channel grey, brightness, contrast and saturation are
affine maps of rgb as they are, and hue becomes a rotation about the grey axis of the RGB cube. That
equals the shift of the HSV hue at multiples of a third of a turn and is twice as close to it in
between as the usual rotation in YIQ. Unlike torchvision's chain, nothing is clipped to [0, 1]
between the operations, only after the last. Tests bound both differences.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tce_tf.data import sampling

# torchvision's ImageNet statistics, which the published code uses.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

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


def training_views(batch: Mapping[str, tf.Tensor], *, image_size: int) -> dict[str, tf.Tensor]:
    """The views of DESIGN section 2 from a batch of `pipeline.TrainingInput`.

    Args:
      batch: as `TrainingInput.element_spec`: frames uint8 [B, H, W, 3], of which the upper left
        `frame_sizes` [B, 2] count if that key is there; draws float32 [B, NUM_DRAWS]; video_index
        int64 [B]. H and W must be known statically.
      image_size: S.

    Returns:
      `anchor`, `positive`, `rotated`: float32 [B, S, S, 3], ImageNet-normalised. Anchor and
      positive are flipped alike; `rotated` is turned counter-clockwise by 90 degrees times
      `rotation_label`, int32 [B] in 0..3 (`np.rot90(image, label)`). `video_index` passes through.
    """
    return _as_views(batch, _colour_views(_with_margins(_lay_out_views(batch, image_size))))


def compile_training_views(*, image_size: int, jit_compile: bool = True):
    """`training_views` as a `tf.function` of the batch, compiled by XLA unless told otherwise.

    XLA gets two functions, for the sake of CPUs, with a plain copy between them. Rows that lie in
    memory with their margins are read as vectors; compiled as one, every colour value would be
    computed through the index arithmetic of margin, flip and rotation, at eight times the CPU time.
    Likewise images leave as rows: a loop over three channels is too short to vectorise.
    """
    lay_out = tf.function(lambda batch: _lay_out_views(batch, image_size), jit_compile=jit_compile)
    colour = tf.function(_colour_views, jit_compile=jit_compile)
    return tf.function(lambda batch: _as_views(batch, colour(_with_margins(lay_out(batch)))))


def _lay_out_views(batch, image_size: int) -> dict[str, "_Layout"]:
    """Resize, flip and rotation of each view, and what `_colour_rows` needs to know of it."""
    layouts = {}
    for view in sampling.VIEWS:
        images = resize_to_square(batch[f"{view}_frames"], image_size, batch.get("frame_sizes"))
        colours = {name: _view_draw(batch, f"{view}_{name}") for name in sampling.COLOUR_COLUMNS}
        # Before they are flipped and turned: which changes no mean, and is cheaper to read.
        maps = _row_maps(images, colours)
        is_rotated = view == "rotated"
        images = flip(images, _view_draw(batch, "rotated_flip" if is_rotated else "flip") < 0.5)
        if is_rotated:
            images = rotate(images, _rotation_label(batch))
        layouts[view] = (_as_rows(images), *maps)
    return layouts


def _with_margins(layouts):
    return {view: (_padded(rows), *maps) for view, (rows, *maps) in layouts.items()}


def _colour_views(layouts):
    return {view: normalize(_colour_rows(*layout)) for view, layout in layouts.items()}


def _as_views(batch, rows: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    views = {view: _as_images(value) for view, value in rows.items()}
    return views | {"rotation_label": _rotation_label(batch), "video_index": batch["video_index"]}


def _view_draw(batch, name: str) -> tf.Tensor:
    return batch["draws"][:, sampling.VIEW_COLUMN[name]]


def _rotation_label(batch) -> tf.Tensor:
    return tf.cast(_view_draw(batch, "rotation") * 4, tf.int32)


def normalize(images: tf.Tensor) -> tf.Tensor:
    """Images in [0, 1] to zero mean and unit variance over ImageNet.

    Args:
      images: float [..., 3], or rows of pixels side by side [..., 3 W].
    """
    repeats = images.shape[-1] // 3
    mean = tf.constant(np.tile(IMAGENET_MEAN, repeats), images.dtype)
    std = tf.constant(np.tile(IMAGENET_STD, repeats), images.dtype)
    return (images - mean) / std


def stack_of_differences(frames: tf.Tensor) -> tf.Tensor:
    """Each frame minus the one after it, side by side in the channels.

    As in the released code of the paper's first version (dataloader/UCF101.py).

    Args:
      frames: float [B, T, H, W, 3], T consecutive normalised frames.

    Returns:
      [B, H, W, 3 (T - 1)].
    """
    differences = tf.unstack(frames[:, :-1] - frames[:, 1:], axis=1)
    return tf.concat(differences, axis=-1)


def preprocess_evaluation(
    frames: tf.Tensor, *, image_size: int, resize_mode: str = "crop"
) -> tf.Tensor:
    """Whole frames to the squares that the encoder sees outside of training.

    Core TensorFlow ops and any H, W: it is part of the exported model. Not compiled by XLA.

    Args:
      frames: uint8 [B, H, W, 3] in [0, 255].
      image_size: S.
      resize_mode: "crop" for the central square of side `sampling.crop_side`, "squash" for all.

    Returns:
      float32 [B, S, S, 3] in [0, 1], not normalised.
    """
    if resize_mode == "crop":
        shape = tf.shape(frames)
        height, width = shape[1], shape[2]
        side = sampling.crop_side(tf.minimum(height, width))
        top, left = (height - side) // 2, (width - side) // 2
        frames = frames[:, top : top + side, left : left + side]
    elif resize_mode != "squash":
        raise ValueError(f"resize_mode {resize_mode!r} is neither 'crop' nor 'squash'")
    resized = tf.image.resize(frames, [image_size, image_size], "bilinear", antialias=True)
    return tf.ensure_shape(resized, [None, image_size, image_size, 3]) / 255


def resize_to_square(
    images: tf.Tensor, image_size: int, sizes: tf.Tensor | None = None
) -> tf.Tensor:
    """Bilinear antialiased resize, as `tf.image.resize(antialias=True)`, in a form XLA compiles.

    It treats both axes and both directions alike, so that turning or flipping before or after
    gives the same image: otherwise the rotation head could read the label off the blur.

    Args:
      images: uint8 [B, H, W, 3].
      image_size: S.
      sizes: int32 [B, 2], height and width of the part at the upper left that counts; None for
        all of H, W.

    Returns:
      [B, S, S, 3] in the range of `images`: float32, or as they are if nothing is to be resized.
    """
    height, width = images.shape[1:3]
    if sizes is None:
        if height == width == image_size:
            return images
        rows, columns = (resize_matrix(side, side, image_size) for side in (height, width))
    else:
        rows = resize_matrix(sizes[:, :1, None, None], height, image_size)
        columns = resize_matrix(sizes[:, 1:, None, None], width, image_size)
    # One colour plane at a time: on the CPU a third cheaper than contracting [B, H, W, 3] in place.
    planes = tf.transpose(tf.cast(images, tf.float32), [0, 3, 1, 2])
    planes = tf.matmul(tf.matmul(rows, planes), columns, transpose_b=True)
    return tf.transpose(planes, [0, 2, 3, 1])


def resize_matrix(side, padded_side: int, image_size: int):
    """Weights [..., image_size, padded_side] of a resize of the first `side` pixels, float32.

    The triangle kernel with half-pixel centres, stretched by the scale when shrinking. Distances
    are counted in units of 1 / (2 image_size), in integers, so that the matrix is symmetric to
    the last bit.

    Args:
      side: int, or int32 tensor [..., 1, 1], at most `padded_side`.
      padded_side: columns of the matrix; those beyond `side` are zero.
      image_size: rows of the matrix.
    """
    xp = tf if tf.is_tensor(side) else np
    pixels = np.arange(padded_side, dtype=np.int32)
    outputs = np.arange(image_size, dtype=np.int32)[:, None]
    distance = abs((2 * pixels + 1) * image_size - (2 * outputs + 1) * side)
    reach = 2 * xp.maximum(side, image_size)
    weights = xp.where((pixels < side) & (distance < reach), reach - distance, 0)
    total = (xp.reduce_sum if xp is tf else np.sum)(weights, axis=-1, keepdims=True)
    if xp is tf:
        return tf.cast(weights, tf.float32) / tf.cast(total, tf.float32)
    return weights.astype(np.float32) / total.astype(np.float32)


def flip(images: tf.Tensor, is_flipped: tf.Tensor) -> tf.Tensor:
    """Mirrors images [B, H, W, 3] left to right where `is_flipped` (bool [B])."""
    return tf.where(is_flipped[:, None, None, None], tf.reverse(images, [2]), images)


def rotate(images: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Turns square images [B, S, S, 3] as `np.rot90(image, label)`; label int32 [B] in 0..3."""
    label = label[:, None, None, None]
    transposed = tf.transpose(images, [0, 2, 1, 3])
    turned = tf.where(label == 1, tf.reverse(transposed, [1]), images)
    turned = tf.where(label == 2, tf.reverse(images, [1, 2]), turned)
    return tf.where(label == 3, tf.reverse(transposed, [2]), turned)


def jitter_colours(images: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Channel grey, then colour jitter, as one affine map per image and one clip.

    Args:
      images: [B, H, W, 3] in [0, 255], uint8 or float32.
      draws: float32 [B] in [0, 1) under each of `sampling.COLOUR_COLUMNS`.

    Returns:
      float32 [B, H, W, 3] in [0, 1].
    """
    return _as_images(_colour_rows(_padded(_as_rows(images)), *_row_maps(images, draws)))


# In a row of interleaved pixels r g b r g b ... the channels that make up a new value lie at most two
# places off. One vector of factors per distance, zero where the neighbour is another pixel, turns
# the colour map into multiplications of whole rows, with no channel to pick: on a CPU a fifth of the
# time of the map plane by plane.
_REACH = 2


def _as_rows(images: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 3] to [B, H, 3 W]."""
    _, height, width, channels = images.shape
    return tf.reshape(images, [-1, height, width * channels])


def _padded(rows: tf.Tensor) -> tf.Tensor:
    """Rows with a margin of zeros on both sides, for the neighbours of the outermost pixels."""
    return tf.pad(rows, [[0, 0], [0, 0], [_REACH, _REACH]])


def _row_maps(images: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The colour maps of images [B, H, W, 3] in [0, 255]: factors [B, 5, 3 W], offsets [B]."""
    matrix, offset = colour_maps(_mean_colours(images) / 255, draws)
    nothing = tf.zeros_like(offset)
    factors = [
        [matrix[:, i, i + step] / 255 if 0 <= i + step < 3 else nothing for i in range(3)]
        for step in range(-_REACH, _REACH + 1)
    ]
    factors = tf.stack([tf.stack(by_channel, axis=-1) for by_channel in factors], axis=1)
    return tf.tile(factors, [1, 1, images.shape[2]]), offset


def _colour_rows(rows: tf.Tensor, factors: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Maps the colours of `_padded` rows by `_row_maps`: float32 [B, H, 3 W] in [0, 1]."""
    length = factors.shape[-1]
    mapped = offset[:, None, None]
    for step in range(2 * _REACH + 1):
        neighbours = tf.cast(rows[:, :, step : step + length], tf.float32)
        mapped += neighbours * factors[:, step, None]
    return tf.clip_by_value(mapped, 0.0, 1.0)


def _as_images(rows: tf.Tensor) -> tf.Tensor:
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
    sums = tf.cast(_as_rows(images), tf.float32)
    half, odd = divmod(height, 2)
    while half and not odd:
        sums = sums[:, :half] + sums[:, half:]
        half, odd = divmod(half, 2)
    sums = tf.reshape(tf.reduce_sum(sums, axis=1), [-1, width, 3])
    return tf.reduce_sum(sums, axis=1) / (height * width)


def _factor(draw: tf.Tensor, spread: float) -> tf.Tensor:
    """Uniform in [0, 1) to uniform in [1 - spread, 1 + spread)."""
    return 1 + spread * (2 * draw - 1)
