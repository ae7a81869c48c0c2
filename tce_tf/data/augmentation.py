"""How do uint8 frames become the three views? On the device, from the draws of the batch alone.

Nothing here draws a random number, so the same batch gives the same views on every device, and all
of `training_views` compiles under XLA.
"""

import functools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tce_tf.data import colours, sampling

# torchvision's ImageNet statistics, which the published code uses.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
    compiled = functools.partial(tf.function, jit_compile=jit_compile, autograph=False)
    lay_out = compiled(lambda batch: _lay_out_views(batch, image_size))
    colour = compiled(_colour_views)
    return tf.function(
        lambda batch: _as_views(batch, colour(_with_margins(lay_out(batch)))), autograph=False
    )


def _lay_out_views(batch, image_size: int) -> dict[str, tuple]:
    """Resize, flip and rotation of each view: `rows`, `factors` and `offset` of `map_rows`."""
    layouts = {}
    for view in sampling.VIEWS:
        images = resize_to_square(batch[f"{view}_frames"], image_size, batch.get("frame_sizes"))
        draws = {name: _view_draw(batch, f"{view}_{name}") for name in sampling.COLOUR_COLUMNS}
        # Of the images before they are flipped and turned, which changes no mean: cheaper to read.
        factors, offset = colours.row_maps(images, draws)
        is_rotated = view == "rotated"
        images = flip(images, _view_draw(batch, "rotated_flip" if is_rotated else "flip") < 0.5)
        if is_rotated:
            images = rotate(images, _rotation_label(batch))
        layouts[view] = colours.as_rows(images), factors, offset
    return layouts


def _with_margins(layouts):
    return {view: (colours.padded(rows), *maps) for view, (rows, *maps) in layouts.items()}


def _colour_views(layouts):
    return {view: normalize(colours.map_rows(*layout)) for view, layout in layouts.items()}


def _as_views(batch, rows: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    views = {view: colours.as_images(value) for view, value in rows.items()}
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
