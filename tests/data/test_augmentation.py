"""How views are made: one affine colour map against the per-image chain, resize, evaluation."""

import made_frames
import numpy as np
import pytest
import reference_colour
import tensorflow as tf

from tce_tf.data import augmentation, colours, sampling

FACTORS = ("brightness", "contrast", "saturation")


def colour_draws(*, hue=0.0, order=FACTORS + ("hue",), grey_channel=None, **factors):
    """The draws that give these factors: one image's, as jitter_colours takes them."""
    draws = {name: factors.get(name, 1.0) - 0.5 for name in FACTORS}
    draws["hue"] = 2 * (hue + 0.25)
    draws["order"] = (reference_colour.ORDERS.index(tuple(order)) + 0.5) / 24
    draws["grey"] = 0.75 if grey_channel is None else 0.25
    draws["grey_channel"] = ((grey_channel or 0) + 0.5) / 3
    return {name: tf.constant([value], tf.float32) for name, value in draws.items()}


def jitter(image, **draws):
    images = tf.constant(image[None] * 255, tf.float32)
    return colours.jitter_colours(images, colour_draws(**draws))[0].numpy()


def random_factors(rng):
    factors = {name: rng.uniform(0.5, 1.5) for name in FACTORS}
    return factors | {"hue": rng.uniform(-0.25, 0.25)}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3, 1.5])
def test_each_linear_operation_is_exact(name, factor):
    for seed in range(4):
        image = made_frames.natural_image(seed)
        expected = getattr(reference_colour, name)(image, factor)
        np.testing.assert_allclose(jitter(image, **{name: factor}), expected, atol=1e-5)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_channel_grey_is_exact_and_comes_before_the_jitter(channel):
    image = made_frames.natural_image(0)
    grey = reference_colour.channel_grey(image, channel)
    np.testing.assert_allclose(jitter(image, grey_channel=channel), grey, atol=1e-5)
    factors = {"brightness": 0.8, "contrast": 0.6, "saturation": 1.4, "hue": 0.2}
    order = ("hue", "contrast", "brightness", "saturation")
    expected = reference_colour.color_jitter(grey, factors, order)
    actual = jitter(image, grey_channel=channel, order=order, **factors)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("turns", [-0.25, -0.1, 0.03, 0.1, 0.25])
def test_hue_is_close_to_the_shift_in_hsv(turns):
    differences, changes = [], []
    for seed in range(16):
        image = made_frames.natural_image(seed)
        expected = reference_colour.hue(image, turns)
        differences.append(np.abs(jitter(image, hue=turns) - expected).mean())
        changes.append(np.abs(image - expected).mean())
    # Measured: 0.005 (0.03 turns) to 0.0136 (0.1 turns); a rotation in YIQ: up to 0.032.
    assert np.mean(differences) < 0.016
    # The other direction would be three times as far away.
    other = [
        np.abs(
            jitter(made_frames.natural_image(s), hue=-turns)
            - reference_colour.hue(made_frames.natural_image(s), turns)
        )
        for s in range(16)
    ]
    assert np.mean(differences) < 0.6 * np.mean(other)
    assert np.mean(differences) < np.mean(changes)


def test_a_third_of_a_turn_is_exact(monkeypatch):
    """A turn of 120 degrees about the grey axis permutes the channels, as the HSV shift does."""
    monkeypatch.setattr(colours, "HUE_TURNS", 1 / 3)
    draws = colour_draws() | {"hue": tf.constant([1.0])}
    image = made_frames.natural_image(3)
    actual = colours.jitter_colours(tf.constant(image[None] * 255, tf.float32), draws)[0]
    np.testing.assert_allclose(actual, reference_colour.hue(image, 1 / 3), atol=1e-5)


def test_the_chain_in_every_order_equals_the_unclipped_chain():
    rng = np.random.default_rng(0)
    for number, order in enumerate(reference_colour.ORDERS):
        image, factors = made_frames.natural_image(number), random_factors(rng)
        expected = reference_colour.color_jitter(
            image, factors, order, clip=False, hue_operation=reference_colour.turned_hue
        )
        actual = jitter(image, order=order, **factors)
        np.testing.assert_allclose(actual, np.clip(expected, 0, 1), atol=1e-5)


def test_the_chain_is_close_to_the_per_image_chain():
    rng = np.random.default_rng(1)
    differences, changes = [], []
    for seed in range(100):
        image, factors = made_frames.natural_image(seed), random_factors(rng)
        order = reference_colour.ORDERS[rng.integers(24)]
        expected = reference_colour.color_jitter(image, factors, order)
        differences.append(np.abs(jitter(image, order=order, **factors) - expected).mean())
        changes.append(np.abs(image - expected).mean())
    # Measured: mean 0.0126, worst 0.036 where the jitter changes an image by 0.129 on average.
    assert np.mean(differences) < 0.016 and np.max(differences) < 0.06
    assert np.mean(differences) < 0.15 * np.mean(changes)


@pytest.mark.parametrize("height, width", [(7, 5), (16, 1), (12, 9), (1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_maps_of_rows_are_the_matrix_at_every_pixel(height, width, dtype):
    """Against one matrix product a pixel, the outermost ones and other lanes' neighbours included."""
    rng = np.random.default_rng(height)
    images = rng.integers(0, 256, (20, height, width, 3)).astype(dtype)
    draws = {name: rng.random(20).astype(np.float32) for name in sampling.COLOUR_COLUMNS}
    means = images.reshape(20, -1, 3).astype(np.float64).mean(axis=1) / 255
    matrix, offset = colours.colour_maps(tf.constant(means, tf.float32), draws)
    expected = (
        np.einsum("bij,bhwj->bhwi", matrix, images / 255) + offset.numpy()[:, None, None, None]
    )
    assert expected.min() < 0 and expected.max() > 1  # the clip has something to do
    actual = colours.jitter_colours(tf.constant(images), draws)
    np.testing.assert_allclose(actual, np.clip(expected, 0, 1), atol=2e-6)


def test_the_order_table_is_the_references():
    names = np.array(FACTORS + ("hue",))
    assert [tuple(names[order]) for order in colours.ORDERS] == reference_colour.ORDERS


@pytest.mark.parametrize("side, size", [(32, 28), (28, 32), (64, 16), (33, 20), (210, 224), (9, 9)])
def test_resize_equals_tf_image_resize(side, size):
    images = made_frames.random_batch(side, count=2)["anchor_frames"]
    expected = tf.image.resize(images, [size, size], "bilinear", antialias=True)
    actual = augmentation.resize_to_square(images, size)
    # TensorFlow's kernel rounds pixel positions to float32, which costs it up to 3e-5 on this
    # noise; ours are exact.
    actual = tf.cast(actual, tf.float32) / 255
    np.testing.assert_allclose(actual, expected / 255, atol=5e-5)
    scale = max(side / size, 1)
    centres = (np.arange(size)[:, None] + 0.5) * side / size
    weights = np.maximum(0, 1 - np.abs(np.arange(side) + 0.5 - centres) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    exact = np.einsum("oh,bhwc,pw->bopc", weights, np.asarray(images) / 255, weights, optimize=True)
    np.testing.assert_allclose(actual, exact, atol=1e-6)


def test_resize_of_padded_images_sees_only_their_own_part():
    sizes = [(20, 30), (24, 17), (30, 30), (11, 12)]
    images = made_frames.random_batch(30, count=4)["anchor_frames"]
    actual = augmentation.resize_to_square(images, 16, tf.constant(sizes, tf.int32))
    for i, (height, width) in enumerate(sizes):
        expected = augmentation.resize_to_square(images[i : i + 1, :height, :width], 16)[0]
        np.testing.assert_allclose(actual[i], expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("side, size", [(32, 28), (28, 33)])
def test_resize_is_equivariant_to_rotation_and_flip(side, size):
    images = made_frames.random_batch(side, count=4)["anchor_frames"]
    resized = augmentation.resize_to_square(images, size)
    matrix = augmentation.resize_matrix(side, side, size)
    np.testing.assert_array_equal(matrix, matrix[::-1, ::-1])
    for label in range(4):
        labels = tf.fill([4], label)
        before = augmentation.resize_to_square(augmentation.rotate(images, labels), size)
        # In units of 1/255: the order of summation is all that differs.
        np.testing.assert_allclose(before, augmentation.rotate(resized, labels), atol=2e-4)
    is_flipped = tf.fill([4], True)
    before = augmentation.resize_to_square(augmentation.flip(images, is_flipped), size)
    np.testing.assert_allclose(before, augmentation.flip(resized, is_flipped), atol=2e-4)


@pytest.mark.parametrize("height, width", [(64, 80), (90, 64), (63, 64), (32, 32)])
@pytest.mark.parametrize("resize_mode", ["crop", "squash"])
def test_evaluation_takes_any_size_and_agrees_with_training(height, width, resize_mode):
    frames = tf.constant(np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8))
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8)
    preprocess = tf.function(
        lambda f: augmentation.preprocess_evaluation(f, image_size=28, resize_mode=resize_mode),
        input_signature=[spec],
    )
    actual = preprocess(frames)
    assert actual.shape == (2, 28, 28, 3) and actual.dtype == tf.float32
    cut = frames
    if resize_mode == "crop":
        side = sampling.crop_side(min(height, width))
        top, left = (height - side) // 2, (width - side) // 2
        cut = frames[:, top : top + side, left : left + side]
    batch = {f"{view}_frames": cut for view in sampling.VIEWS}
    batch |= {"draws": made_frames.neutral_draws(2), "video_index": tf.range(2)}
    views = augmentation.training_views(batch, image_size=28)
    np.testing.assert_allclose(views["anchor"], augmentation.normalize(actual), atol=2e-4)


def test_unknown_resize_mode_is_refused():
    with pytest.raises(ValueError, match="stretch"):
        frames = tf.zeros([1, 8, 8, 3], tf.uint8)
        augmentation.preprocess_evaluation(frames, image_size=8, resize_mode="stretch")
