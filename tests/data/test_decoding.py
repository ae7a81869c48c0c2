"""Is a JPEG decoded to the pixels TensorFlow would give, and is damage noticed?"""

import io

import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from PIL import Image

from tce_tf.data import decoding


def test_decoding_equals_tensorflows_accurate_method():
    rng = np.random.default_rng(0)
    image = tf.image.resize(rng.integers(0, 256, (9, 12, 3)), [61, 83]).numpy().astype(np.uint8)
    for sampling_mode in ("444", "420"):
        jpeg = simplejpeg.encode_jpeg(image, 90, colorsubsampling=sampling_mode)
        expected = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
        np.testing.assert_array_equal(decoding.decode_jpeg(jpeg), expected)


def test_grey_jpegs_become_rgb_and_damage_is_noticed():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(32 * 40, dtype=np.uint8).reshape(32, 40)).save(buffer, "JPEG")
    pixels = decoding.decode_jpeg(buffer.getvalue())
    assert pixels.shape == (32, 40, 3)
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    for damaged in (b"", b"junk", buffer.getvalue()[:-100]):
        with pytest.raises(ValueError):
            decoding.decode_jpeg(damaged)
