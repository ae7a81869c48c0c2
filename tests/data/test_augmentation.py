"""The views: one affine colour map against the per-image chain; resize, flips, turns, sharing."""

import numpy as np
import pytest
import reference_colour
import tensorflow as tf

from tce_tf.data import augmentation, sampling

FACTORS = ("brightness", "contrast", "saturation")


def natural_image(seed, size=48):
    """Smooth and moderately coloured, as frames are: float64 [S, S, 3], multiples of 1/255."""
    coarse = np.random.default_rng(seed).normal(0, 1, (6, 6, 4))
    smooth = tf.image.resize(coarse, [size, size], "bicubic").numpy().astype(np.float64)
    image = 0.45 + 0.22 * smooth[..., :1] + 0.07 * smooth[..., 1:]
    return np.round(np.clip(image, 0, 1) * 255) / 255


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
    return augmentation.jitter_colours(images, colour_draws(**draws))[0].numpy()


def random_factors(rng):
    factors = {name: rng.uniform(0.5, 1.5) for name in FACTORS}
    return factors | {"hue": rng.uniform(-0.25, 0.25)}


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


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3, 1.5])
def test_each_linear_operation_is_exact(name, factor):
    for seed in range(4):
        image = natural_image(seed)
        expected = getattr(reference_colour, name)(image, factor)
        np.testing.assert_allclose(jitter(image, **{name: factor}), expected, atol=1e-5)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_channel_grey_is_exact_and_comes_before_the_jitter(channel):
    image = natural_image(0)
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
        image = natural_image(seed)
        expected = reference_colour.hue(image, turns)
        differences.append(np.abs(jitter(image, hue=turns) - expected).mean())
        changes.append(np.abs(image - expected).mean())
    # Measured: 0.005 (0.03 turns) to 0.0136 (0.1 turns); a rotation in YIQ: up to 0.032.
    assert np.mean(differences) < 0.016
    # The other direction would be three times as far away.
    other = [
        np.abs(jitter(natural_image(s), hue=-turns) - reference_colour.hue(natural_image(s), turns))
        for s in range(16)
    ]
    assert np.mean(differences) < 0.6 * np.mean(other)
    assert np.mean(differences) < np.mean(changes)


def test_a_third_of_a_turn_is_exact(monkeypatch):
    """A turn of 120 degrees about the grey axis permutes the channels, as the HSV shift does."""
    monkeypatch.setattr(augmentation, "HUE_TURNS", 1 / 3)
    draws = colour_draws() | {"hue": tf.constant([1.0])}
    image = natural_image(3)
    actual = augmentation.jitter_colours(tf.constant(image[None] * 255, tf.float32), draws)[0]
    np.testing.assert_allclose(actual, reference_colour.hue(image, 1 / 3), atol=1e-5)


def test_the_chain_in_every_order_equals_the_unclipped_chain():
    rng = np.random.default_rng(0)
    for number, order in enumerate(reference_colour.ORDERS):
        image, factors = natural_image(number), random_factors(rng)
        expected = reference_colour.color_jitter(
            image, factors, order, clip=False, hue_operation=reference_colour.turned_hue
        )
        actual = jitter(image, order=order, **factors)
        np.testing.assert_allclose(actual, np.clip(expected, 0, 1), atol=1e-5)


def test_the_chain_is_close_to_the_per_image_chain():
    rng = np.random.default_rng(1)
    differences, changes = [], []
    for seed in range(100):
        image, factors = natural_image(seed), random_factors(rng)
        order = reference_colour.ORDERS[rng.integers(24)]
        expected = reference_colour.color_jitter(image, factors, order)
        differences.append(np.abs(jitter(image, order=order, **factors) - expected).mean())
        changes.append(np.abs(image - expected).mean())
    # Measured: mean 0.0126, worst 0.036 where the jitter changes an image by 0.129 on average.
    assert np.mean(differences) < 0.016 and np.max(differences) < 0.06
    assert np.mean(differences) < 0.15 * np.mean(changes)


def test_the_order_table_is_the_references():
    names = np.array(FACTORS + ("hue",))
    assert [tuple(names[order]) for order in augmentation.ORDERS] == reference_colour.ORDERS


@pytest.mark.parametrize("side, size", [(32, 28), (28, 32), (64, 16), (33, 20), (210, 224), (9, 9)])
def test_resize_equals_tf_image_resize(side, size):
    images = random_batch(side, count=2)["anchor_frames"]
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
    images = random_batch(30, count=4)["anchor_frames"]
    actual = augmentation.resize_to_square(images, 16, tf.constant(sizes, tf.int32))
    for i, (height, width) in enumerate(sizes):
        expected = augmentation.resize_to_square(images[i : i + 1, :height, :width], 16)[0]
        np.testing.assert_allclose(actual[i], expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("side, size", [(32, 28), (28, 33)])
def test_resize_is_equivariant_to_rotation_and_flip(side, size):
    images = random_batch(side, count=4)["anchor_frames"]
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


def test_rotation_labels_mean_rot90():
    images = random_batch(8, count=4)["anchor_frames"]
    rotated = augmentation.rotate(images, tf.range(4))
    for label in range(4):
        np.testing.assert_array_equal(rotated[label], np.rot90(images[label], label))


def test_rotated_view_carries_its_label_exactly():
    batch = random_batch(12, count=4)
    batch["draws"] = neutral_draws(4, rotation=[0.0, 0.3, 0.5, 0.99])
    views = augmentation.training_views(batch, image_size=12)
    assert views["rotation_label"].numpy().tolist() == [0, 1, 2, 3]
    for label in range(4):
        upright = augmentation.normalize(batch["rotated_frames"][label] / 255)
        np.testing.assert_allclose(
            views["rotated"][label], np.rot90(tf.cast(upright, tf.float32), label), atol=1e-5
        )
    np.testing.assert_array_equal(views["video_index"], batch["video_index"])


def test_flip_is_shared_by_the_pair_and_not_by_the_third_view():
    batch = random_batch(8, count=4)
    batch["draws"] = neutral_draws(4, flip=[0.1, 0.1, 0.9, 0.9], rotated_flip=[0.1, 0.9, 0.1, 0.9])
    views = augmentation.training_views(batch, image_size=8)
    for name, flips in dict(
        anchor=[1, 1, 0, 0], positive=[1, 1, 0, 0], rotated=[1, 0, 1, 0]
    ).items():
        for i, is_flipped in enumerate(flips):
            frame = tf.cast(batch[f"{name}_frames"][i], tf.float32) / 255
            expected = augmentation.normalize(frame[:, ::-1] if is_flipped else frame)
            np.testing.assert_allclose(views[name][i], expected, atol=1e-5)


def test_colours_are_drawn_for_each_view_alone():
    """Equal frames: the views' mean colours vary, and hardly together."""
    count = 1500
    frame = np.round(natural_image(5, 8) * 255).astype(np.uint8)
    batch = {
        f"{view}_frames": tf.constant(np.tile(frame, (count, 1, 1, 1))) for view in sampling.VIEWS
    }
    batch["draws"] = tf.constant(sampling.uniform_draws(0, 0, np.arange(count))[1])
    batch["video_index"] = tf.range(count)
    views = augmentation.training_views(batch, image_size=8)
    images = {view: np.asarray(views[view]) for view in sampling.VIEWS}
    means = np.stack([image.mean((1, 2, 3)) for image in images.values()])
    assert means.std(axis=1).min() > 0.1
    assert np.abs(np.corrcoef(means) - np.eye(3)).max() < 4.5 / np.sqrt(count)
    raw = {v: i * augmentation.IMAGENET_STD + augmentation.IMAGENET_MEAN for v, i in images.items()}
    is_grey = np.stack([np.ptp(i, axis=-1).max((1, 2)) < 1e-4 for i in raw.values()])
    assert np.abs(is_grey.mean(axis=1) - 0.5).max() < 4.5 * 0.5 / np.sqrt(count)
    assert np.abs(np.corrcoef(is_grey) - np.eye(3)).max() < 4.5 / np.sqrt(count)
    labels = np.bincount(views["rotation_label"], minlength=4) / count
    assert np.abs(labels - 0.25).max() < 4.5 * 0.44 / np.sqrt(count)
    flips = np.asarray(batch["draws"])[:, :2] < 0.5
    assert abs(np.corrcoef(flips.T)[0, 1]) < 4.5 / np.sqrt(count)


@pytest.mark.parametrize("padded", [False, True])
def test_eager_equals_graph_equals_xla_equals_tf_data(padded):
    sizes = np.random.default_rng(0).integers(15, 25, (8, 2)) if padded else None
    batch = random_batch(24, count=8, sizes=sizes)
    eager = augmentation.training_views(batch, image_size=20)
    graph = augmentation.compile_training_views(image_size=20, jit_compile=False)(batch)
    xla = augmentation.compile_training_views(image_size=20)(batch)
    dataset = tf.data.Dataset.from_tensors(batch).map(
        lambda element: augmentation.training_views(element, image_size=20)
    )
    mapped = next(iter(dataset))
    for other in (graph, xla, mapped):
        assert other.keys() == eager.keys()
        for name, value in eager.items():
            assert other[name].dtype == value.dtype
            np.testing.assert_allclose(other[name], value, atol=2e-5, err_msg=name)
    assert eager["anchor"].dtype == tf.float32 and eager["rotation_label"].dtype == tf.int32


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
    batch |= {"draws": neutral_draws(2), "video_index": tf.range(2)}
    views = augmentation.training_views(batch, image_size=28)
    np.testing.assert_allclose(views["anchor"], augmentation.normalize(actual), atol=2e-4)


def test_unknown_resize_mode_is_refused():
    with pytest.raises(ValueError, match="stretch"):
        frames = tf.zeros([1, 8, 8, 3], tf.uint8)
        augmentation.preprocess_evaluation(frames, image_size=8, resize_mode="stretch")
