"""Three views a sample: what they share, what each has of its own, and an exact turn of the third."""

import made_frames
import numpy as np
import pytest
import tensorflow as tf

from tce_tf.data import augmentation, sampling


@pytest.mark.parametrize("padded", [False, True])
def test_no_label_can_be_read_off_how_the_rotated_view_was_made(padded):
    """Turned before or after resize and colours: the same view, so no trace of the turn."""
    count, side = 16, 30
    sizes = np.repeat([24, 30, 17, 21], 4) if padded else np.full(count, side)
    batch = made_frames.random_batch(side, count=count, sizes=np.stack([sizes, sizes], axis=1))
    if not padded:
        del batch["frame_sizes"]
    labels = np.arange(count) % 4
    draws = sampling.uniform_draws(0, 0, np.arange(count))[1]
    draws[:, sampling.VIEW_COLUMN["rotated_flip"]] = 0.75
    upright = draws.copy()
    draws[:, sampling.VIEW_COLUMN["rotation"]] = labels / 4
    upright[:, sampling.VIEW_COLUMN["rotation"]] = 0
    turned = np.asarray(batch["rotated_frames"]).copy()
    for i, (label, used) in enumerate(zip(labels, sizes, strict=True)):
        turned[i, :used, :used] = np.rot90(turned[i, :used, :used], label)
        turned[i, used:], turned[i, :, used:] = 0, 0
    after = augmentation.training_views(batch | {"draws": tf.constant(draws)}, image_size=20)
    before = augmentation.training_views(
        batch | {"draws": tf.constant(upright), "rotated_frames": tf.constant(turned)},
        image_size=20,
    )
    assert after["rotation_label"].numpy().tolist() == labels.tolist()
    np.testing.assert_allclose(after["rotated"], before["rotated"], atol=1e-4)


def test_rotation_labels_mean_rot90():
    images = made_frames.random_batch(8, count=4)["anchor_frames"]
    rotated = augmentation.rotate(images, tf.range(4))
    for label in range(4):
        np.testing.assert_array_equal(rotated[label], np.rot90(images[label], label))


def test_rotated_view_carries_its_label_exactly():
    batch = made_frames.random_batch(12, count=4)
    batch["draws"] = made_frames.neutral_draws(4, rotation=[0.0, 0.3, 0.5, 0.99])
    views = augmentation.training_views(batch, image_size=12)
    assert views["rotation_label"].numpy().tolist() == [0, 1, 2, 3]
    for label in range(4):
        upright = augmentation.normalize(batch["rotated_frames"][label] / 255)
        np.testing.assert_allclose(
            views["rotated"][label], np.rot90(tf.cast(upright, tf.float32), label), atol=1e-5
        )
    np.testing.assert_array_equal(views["video_index"], batch["video_index"])


def test_flip_is_shared_by_the_pair_and_not_by_the_third_view():
    batch = made_frames.random_batch(8, count=4)
    batch["draws"] = made_frames.neutral_draws(
        4, flip=[0.1, 0.1, 0.9, 0.9], rotated_flip=[0.1, 0.9, 0.1, 0.9]
    )
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
    frame = np.round(made_frames.natural_image(5, 8) * 255).astype(np.uint8)
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


def test_what_is_shared_and_what_is_not_over_many_samples():
    """Read off the views: pairs flip together, third views alone, turns alone; each as often."""
    count = 2000
    # The top row falls from bright to dark, which tells flip and turn whatever the colours.
    frame = np.full((4, 4, 3), 60, np.uint8)
    frame[0, 0], frame[0, 1], frame[0, 2], frame[0, 3] = 250, 190, 130, 90
    batch = {
        f"{view}_frames": tf.constant(np.tile(frame, (count, 1, 1, 1))) for view in sampling.VIEWS
    }
    batch["draws"] = tf.constant(sampling.uniform_draws(3, 1, np.arange(count))[1])
    batch["video_index"] = tf.range(count)
    views = augmentation.training_views(batch, image_size=4)
    planes = {view: np.asarray(views[view]).mean(axis=-1) for view in sampling.VIEWS}
    labels = np.asarray(views["rotation_label"])
    upright = np.stack([np.rot90(p, -k) for p, k in zip(planes["rotated"], labels, strict=True)])
    flipped = {
        view: plane[:, 0, 3] > plane[:, 0, 0]
        for view, plane in (planes | {"rotated": upright}).items()
    }
    np.testing.assert_array_equal(flipped["anchor"], flipped["positive"])
    bound = 4.5 / np.sqrt(count)
    traits = np.stack([flipped["anchor"], flipped["rotated"], labels])
    assert abs(traits[:2].mean() - 0.5) < bound / 2
    assert np.abs(np.corrcoef(traits) - np.eye(3)).max() < bound
    # Label by flip, so that no label is tied to one: eight equally frequent cells.
    cells = np.bincount(labels * 2 + flipped["rotated"], minlength=8)
    assert np.sum((cells - count / 8) ** 2 / (count / 8)) < 24.32  # 7 d.f., p = 0.001


@pytest.mark.parametrize("padded", [False, True])
def test_eager_equals_graph_equals_xla_equals_tf_data(padded):
    sizes = np.random.default_rng(0).integers(15, 25, (8, 2)) if padded else None
    batch = made_frames.random_batch(24, count=8, sizes=sizes)
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
