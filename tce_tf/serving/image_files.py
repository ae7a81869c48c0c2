"""How does a picture file become pixels inside the exported graph? JPEG or PNG, core ops, a size limit.

Everything here is part of the graph that TF Serving runs on bytes from anywhere, so a header is read
before room is made for the picture that it claims.
"""

import tensorflow as tf

from tce_tf.data import pictures

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 33  # the signature, and the first chunk: width, height, kind of pixels
_PNG_SIZE_AT = 16


def decode(file: tf.Tensor) -> tf.Tensor:
    """A file's pixels as they are stored: uint8 [H, W, 3] in [0, 255].

    Grey and CMYK become RGB, transparency is dropped, 16 bits become the upper 8, and an EXIF
    orientation is not applied.

    Args:
      file: string scalar, a whole JPEG or PNG.

    Raises:
      tf.errors.InvalidArgumentError: when run; no such file, a damaged one, or a picture that claims
        more than `pictures.MAX_SOURCE_PIXELS`.
    """
    is_png = tf.strings.substr(file, 0, len(_PNG)) == _PNG
    is_jpeg = tf.strings.substr(file, 0, len(_JPEG)) == _JPEG
    with tf.control_dependencies([tf.debugging.Assert(is_png | is_jpeg, ["neither JPEG nor PNG"])]):
        file = tf.identity(file)
    size = tf.cond(is_png, lambda: _png_size(file), lambda: _jpeg_size(file))
    limit = pictures.MAX_SOURCE_PIXELS
    # Sides from a header are below 2^31 (beyond that negative), so their product fits into 64 bits.
    allowed = tf.reduce_all(size > 0) & (tf.reduce_prod(size) <= limit)
    claimed = tf.strings.join(
        [
            "a picture that claims ",
            tf.strings.as_string(size[1]),
            " x ",
            tf.strings.as_string(size[0]),
            f" px: at most {limit} px are decoded",
        ]
    )
    with tf.control_dependencies([tf.debugging.Assert(allowed, [claimed])]):
        # Reads PNG too. The same pixels as the training input's (`data.decoding`); the default, and
        # all that decode_image offers, is libjpeg's fast transform, which is less exact.
        return tf.io.decode_jpeg(tf.identity(file), channels=3, dct_method="INTEGER_ACCURATE")


def _png_size(file):
    """Height and width, int64 [2], that a PNG's header claims."""
    whole = tf.debugging.Assert(
        tf.strings.length(file) >= _PNG_HEADER_BYTES, ["a PNG that ends within its header"]
    )
    with tf.control_dependencies([whole]):
        sides = tf.strings.substr(file, _PNG_SIZE_AT, 8)
    width_height = tf.io.decode_raw(sides, tf.int32, little_endian=False)
    return tf.cast(width_height[::-1], tf.int64)


def _jpeg_size(file):
    """Height and width, int64 [2], that a JPEG's header claims."""
    return tf.cast(tf.image.extract_jpeg_shape(file)[:2], tf.int64)
