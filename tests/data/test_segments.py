"""Does fine-tuning see one frame from each part? Parts, stacks, crops, views, damage."""

import numpy as np
import pytest
import tensorflow as tf
from fake_reader import FakeReader, shown
from hypothesis import given
from hypothesis import strategies as st

from tce_tf.data import augmentation, pipeline, sampling, segments


def make_input(reader, **options):
    reader.labels = np.arange(len(reader.num_frames)) % 3
    settings = {"batch_size": 4, "num_segments": 3, "seed": 0} | options
    return segments.SegmentInput(reader, **settings)


@given(
    st.integers(1, 40), st.integers(1, 6), st.integers(1, 8),
    st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_each_part_gives_a_frame_of_its_own(num_frames, parts, stack, draw):
    (starts,) = sampling.segment_frames(np.full((1, parts), draw), np.array([num_frames]), stack)
    for part, start in enumerate(starts):
        first = part * num_frames // parts
        beyond = max((part + 1) * num_frames // parts, first + 1)
        assert 0 <= start <= max(num_frames - stack, 0)
        if first <= num_frames - stack:
            assert first <= start < beyond


def test_frames_are_uniform_over_each_part():
    draws = sampling.segment_draws(3, 1, np.arange(6000), 3)
    starts = sampling.segment_frames(draws, np.full(6000, 12), 1)
    for part in range(3):
        counts = np.bincount(starts[:, part] - 4 * part, minlength=4)
        assert counts.shape == (4,) and ((counts - 1500) ** 2 / 1500).sum() < 16.3  # p = 0.001
    assert abs(np.corrcoef(draws.T)[np.triu_indices(3, 1)]).max() < 0.05
    again = sampling.segment_draws(3, 1, np.arange(6000)[::-1], 3)
    np.testing.assert_array_equal(again[::-1], draws)
    assert (sampling.segment_draws(3, 2, np.arange(6000), 3) != draws).any()


def test_a_batch_holds_the_central_squares_and_labels():
    reader = FakeReader([5, 9, 12, 7, 6, 11], sizes=(32, 48), textured=True)
    inputs = make_input(reader)
    batch = inputs.load_step(0)
    assert batch["frames"].shape == (4, 3, 1, 28, 28, 3) and "frame_sizes" not in batch
    videos = sampling.epoch_permutation(0, 0, 6)[:4]
    np.testing.assert_array_equal(batch["label"], reader.labels[videos])
    corners = np.round(batch["frames"][:, :, 0, 0, 0, :2] / 4)
    assert (corners == [2, 10]).all()
    moved = make_input(reader, augment=True).load_step(0)["frames"][:, :, 0, 0, 0, :2] / 4
    moved = np.round(moved)
    assert (moved != [2, 10]).any() and (moved[:, :1] == moved).all()  # alike in a video


@pytest.mark.parametrize("stack", [1, 6])
def test_frames_are_those_drawn_and_stacks_are_consecutive(stack):
    reader = FakeReader([20, 9, 12, 2])
    batch = make_input(reader, stack_frames=stack).load_step(1)
    videos = sampling.epoch_permutation(0, 1, 4)
    draws = sampling.segment_draws(0, 1, reader.rows[videos], 3)
    starts = sampling.segment_frames(draws, reader.num_frames[videos], stack)
    for i, video in enumerate(videos):
        for part in range(3):
            for t in range(stack):
                frame = min(starts[i, part] + t, reader.num_frames[video] - 1)
                assert shown(batch["frames"][i, part, t]) == (video, frame)


def test_a_resumed_run_and_two_workers_see_the_same():
    reader = FakeReader([8] * 10)
    whole = list(make_input(reader).dataset(num_steps=4).as_numpy_iterator())
    resumed = list(make_input(reader).dataset(start_step=3, num_steps=1).as_numpy_iterator())
    halves = [
        make_input(reader, worker_index=worker, num_workers=2).load_step(3) for worker in (0, 1)
    ]
    for name, value in whole[3].items():
        np.testing.assert_array_equal(value, resumed[0][name])
        np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves]))


def test_a_damaged_video_is_replaced_with_its_label():
    reader = FakeReader([6] * 4)
    good = make_input(reader).load_step(0)
    videos = sampling.epoch_permutation(0, 0, 4)
    reader = FakeReader([6] * 4)
    reader.damaged = {(int(videos[1]), frame) for frame in range(6)}
    inputs = make_input(reader, max_bad_fraction=1)
    batch = inputs.load_step(0)
    for name in ("frames", "label", "draws"):
        np.testing.assert_array_equal(batch[name][1], good[name][2])
        np.testing.assert_array_equal(np.delete(batch[name], 1, 0), np.delete(good[name], 1, 0))
    assert (inputs.count.num_samples, inputs.count.num_bad_samples) == (4, 1)


@pytest.mark.parametrize("stack", [1, 6])
@pytest.mark.parametrize("resize_mode", pipeline.RESIZE_MODES)
def test_views_without_augmentation_are_what_evaluation_sees(stack, resize_mode):
    reader = FakeReader([8] * 4, sizes=(32, 48), textured=True)
    inputs = make_input(reader, stack_frames=stack, resize_mode=resize_mode)
    batch = {name: tf.constant(array) for name, array in inputs.load_step(0).items()}
    views = segments.segment_views(batch, image_size=16)
    assert views["images"].shape == (4, 3, 16, 16, 3 if stack == 1 else 15)
    # Evaluation cuts by itself; what is cut here already is the whole of what it would cut.
    seen = augmentation.preprocess_evaluation(
        tf.reshape(batch["frames"], [-1, *batch["frames"].shape[3:]]),
        image_size=16,
        resize_mode="squash",
    )
    seen = tf.reshape(augmentation.normalize(seen), [12, stack, 16, 16, 3])
    expected = augmentation.stack_of_differences(seen) if stack > 1 else seen[:, 0]
    np.testing.assert_allclose(
        tf.reshape(views["images"], expected.shape), expected, rtol=0, atol=2e-5
    )
    compiled = tf.function(lambda b: segments.segment_views(b, image_size=16), jit_compile=True)(
        batch
    )
    np.testing.assert_allclose(compiled["images"], views["images"], rtol=0, atol=1e-5)


def test_augmentation_is_shared_by_the_frames_of_a_video():
    reader = FakeReader([8] * 32, sizes=(32, 32), textured=True)
    batch = make_input(reader, batch_size=32).load_step(0)
    batch["frames"][:] = batch["frames"][:1, :1]  # the same picture everywhere
    batch = {name: tf.constant(array) for name, array in batch.items()}
    images = segments.segment_views(batch, image_size=28, augment=True)["images"].numpy()
    np.testing.assert_allclose(images, images[:, :1].repeat(3, axis=1), atol=1e-5)
    assert len({image.tobytes() for image in images[:, 0]}) == 32
    # Green rises to the right and no jitter turns the mean of the channels around; a picture made
    # grey from another channel says nothing.
    slope = np.diff(images[:, 0].mean(axis=-1).mean(axis=1), axis=1).mean(axis=1)
    telling = np.abs(slope) > 1e-3
    flips = batch["draws"][:, sampling.VIEW_COLUMN["flip"]].numpy() < 0.5
    assert telling.sum() > 12 and 0 < flips[telling].sum() < telling.sum()
    np.testing.assert_array_equal(slope[telling] < 0, flips[telling])
