"""Batches from shards: what step s holds, crops, resume, workers, and the fate of bad frames."""

import io

import numpy as np
import pytest
import tensorflow as tf
from fake_reader import FakeReader, shown

from tce_tf.data import (
    augmentation,
    conversion,
    decoding,
    pipeline,
    plan,
    sampling,
    shard_reader,
)
from tce_tf.errors import UserError
from tce_tf.training import strategies


def make_input(reader, **options):
    settings = {"batch_size": 4, "frame_gap": (1, 1), "seed": 0} | options
    return pipeline.TrainingInput(reader, **settings)


def batches(inputs, **options):
    with pipeline.user_errors():
        return list(inputs.dataset(**options).as_numpy_iterator())


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_batch_is_what_its_draws_say():
    reader = FakeReader([5, 9, 2, 7, 6, 20])
    inputs = make_input(reader)
    (batch,) = batches(inputs, num_steps=1)
    assert batch["anchor_frames"].shape == (4, 28, 28, 3)
    assert batch["anchor_frames"].dtype == np.uint8
    assert batch["draws"].shape == (4, sampling.NUM_DRAWS) and batch["draws"].dtype == np.float32
    assert batch["video_index"].dtype == np.int64
    assert "frame_sizes" not in batch
    videos = sampling.epoch_permutation(0, 0, 6)[:4]
    np.testing.assert_array_equal(batch["video_index"], reader.rows[videos])
    host, draws = sampling.uniform_draws(0, 0, reader.rows[videos])
    np.testing.assert_array_equal(batch["draws"], draws)
    anchor, positive, _ = sampling.sample_pairs(host, reader.num_frames[videos], (1, 1))
    for i, video in enumerate(videos):
        assert shown(batch["anchor_frames"][i]) == (video, anchor[i])
        assert shown(batch["positive_frames"][i]) == (video, positive[i])
        assert shown(batch["rotated_frames"][i]) == (video, anchor[i])


def test_one_call_reads_two_frames_a_sample_and_gap_zero_one():
    reader = FakeReader([5] * 8)
    batches(make_input(reader, batch_size=8), num_steps=3)
    assert (reader.num_calls, reader.num_reads) == (3, 3 * 16)
    reader = FakeReader([1] * 8)
    (batch,) = batches(make_input(reader, batch_size=8, frame_gap=(0, 0)), num_steps=1)
    assert (reader.num_calls, reader.num_reads) == (1, 8)
    np.testing.assert_array_equal(batch["anchor_frames"], batch["positive_frames"])


def test_pair_shares_its_crop_and_the_third_view_has_its_own():
    reader = FakeReader([3] * 60, sizes=(32, 48), textured=True)
    batch = make_input(reader, batch_size=60).load_step(0)
    corners = {}
    for view in sampling.VIEWS:
        corner = batch[f"{view}_frames"][:, 0, 0, :2]
        corners[view] = np.round(corner / 4).astype(int)
        top, left = corners[view].T
        assert top.min() == 0 and top.max() == 32 - 28 and left.min() == 0 and left.max() <= 48 - 28
        assert len(set(left)) > 10
        # A square of the frame's own pixels, not a resized one.
        for i in range(60):
            crop = reader.pixels(0, 0)[top[i] : top[i] + 28, left[i] : left[i] + 28, :2]
            difference = batch[f"{view}_frames"][i, ..., :2].astype(int) - crop
            assert np.abs(difference).max() <= 3
    np.testing.assert_array_equal(corners["anchor"], corners["positive"])
    assert np.mean(np.all(corners["anchor"] == corners["rotated"], axis=1)) < 0.1


def test_crops_are_uniform_over_every_position():
    reader = FakeReader([2] * 60, sizes=(32, 40), textured=True)
    inputs = make_input(reader, batch_size=60)
    corners = {"anchor": [], "rotated": []}
    for epoch in range(20):
        batch = inputs.load_step(epoch)
        for view, found in corners.items():
            found.append(np.round(batch[f"{view}_frames"][:, 0, 0, :2] / 4).astype(int))
    corners = {view: np.concatenate(found) for view, found in corners.items()}  # [1200, 2]
    for found in corners.values():
        # 5 tops, 13 lefts: chi-square with 4 and 12 degrees of freedom, p = 0.001.
        for axis, (places, limit) in enumerate(((5, 18.47), (13, 32.91))):
            counts = np.bincount(found[:, axis], minlength=places)
            assert len(counts) == places
            assert np.sum((counts - 1200 / places) ** 2 / (1200 / places)) < limit
    four = np.concatenate(list(corners.values()), axis=1)
    assert np.abs(np.corrcoef(four.T) - np.eye(4)).max() < 4.5 / np.sqrt(1200)


def test_a_smaller_crop_draws_its_side_and_the_positive_may_lie_elsewhere():
    reader = FakeReader([3] * 60, sizes=(32, 48), textured=True)
    inputs = make_input(reader, batch_size=60, min_crop=0.5, own_crops=True)
    sides, corners = [], {view: [] for view in sampling.VIEWS}
    for step in range(20):
        batch = inputs.load_step(step)
        assert batch["anchor_frames"].shape == (60, 28, 28, 3)
        np.testing.assert_array_equal(batch["frame_sizes"][:, 0], batch["frame_sizes"][:, 1])
        sides.append(batch["frame_sizes"][:, 0])
        for view, found in corners.items():
            found.append([])
            for i, side in enumerate(sides[-1]):
                pixels = batch[f"{view}_frames"][i, :side, :side, :2].astype(int)
                # A pixel's colour is 4 times its place; the mean is free of the JPEG's noise.
                top, left = np.round(pixels.mean((0, 1)) / 4 - (side - 1) / 2).astype(int)
                assert 0 <= top <= 32 - side and 0 <= left <= 48 - side
                crop = reader.pixels(0, 0)[top : top + side, left : left + side, :2]
                assert np.abs(pixels - crop).mean() < 2
                found[-1].append((top, left))
    sides = np.concatenate(sides)
    counts = np.bincount(sides - 16, minlength=13)  # from 16, half of 32, to 28
    # Chi-square with 12 degrees of freedom, p = 0.001.
    assert len(counts) == 13 and np.sum((counts - 1200 / 13) ** 2 / (1200 / 13)) < 32.91
    relative = {
        view: np.concatenate(found)[:, 0] / np.maximum(32 - sides, 1)
        for view, found in corners.items()
    }
    between = np.corrcoef(list(relative.values()))
    assert np.abs(between - np.eye(3)).max() < 4.5 / np.sqrt(1200)


def test_the_published_crop_does_not_depend_on_the_draws_of_the_other():
    reader = FakeReader([3] * 8, sizes=(32, 48), textured=True)
    assert_same(
        make_input(reader).load_step(0), make_input(reader, min_crop=sampling.MAX_CROP).load_step(0)
    )
    own = make_input(reader, own_crops=True).load_step(0)
    shared = make_input(reader).load_step(0)
    for view in ("anchor", "rotated"):
        np.testing.assert_array_equal(own[f"{view}_frames"], shared[f"{view}_frames"])
    assert np.any(own["positive_frames"] != shared["positive_frames"])


def test_frames_of_many_sizes_are_padded_to_one_static_shape():
    sizes = [(32, 48), (64, 48), (40, 40), (36, 33)]
    reader = FakeReader([4] * 4, sizes=sizes)
    inputs = make_input(reader)
    (batch,) = batches(inputs, num_steps=1)
    assert batch["anchor_frames"].shape == (4, 42, 42, 3)
    videos = sampling.epoch_permutation(0, 0, 4)
    for i, video in enumerate(videos):
        side = sampling.crop_side(min(sizes[video]))
        assert batch["frame_sizes"][i].tolist() == [side, side]
        assert not batch["anchor_frames"][i, side:].any()
        assert not batch["anchor_frames"][i, :, side:].any()
        assert shown(batch["anchor_frames"][i, :side, :side])[0] == video
    views = augmentation.training_views(
        batch | {"draws": tf.constant(batch["draws"])}, image_size=16
    )
    assert views["anchor"].shape == (4, 16, 16, 3)


def test_squash_keeps_whole_frames():
    reader = FakeReader([4] * 4, sizes=[(32, 48), (64, 40), (32, 48), (32, 48)])
    (batch,) = batches(make_input(reader, resize_mode="squash"), num_steps=1)
    assert batch["anchor_frames"].shape == (4, 64, 48, 3)
    videos = sampling.epoch_permutation(0, 0, 4)
    for i, video in enumerate(videos):
        height, width = batch["frame_sizes"][i]
        assert (height, width) == (reader.heights[video], reader.widths[video])
        assert shown(batch["rotated_frames"][i, :height, :width])[0] == video
    same_size = FakeReader([4] * 4, sizes=(32, 48))
    (batch,) = batches(make_input(same_size, resize_mode="squash"), num_steps=1)
    assert batch["anchor_frames"].shape == (4, 32, 48, 3) and "frame_sizes" not in batch


def test_every_video_once_an_epoch_and_another_order_in_the_next():
    reader = FakeReader([3] * 12)
    inputs = make_input(reader)
    assert inputs.steps_per_epoch == 3
    rows = np.stack([batch["video_index"] for batch in batches(inputs, num_steps=6)])
    for epoch in (rows[:3], rows[3:]):
        assert sorted(epoch.ravel()) == reader.rows.tolist()
    assert np.any(rows[:3] != rows[3:])


@pytest.mark.parametrize("start", [1, 3, 5])
def test_resume_is_arithmetic(start):
    whole = batches(make_input(FakeReader([5] * 9), frame_gap=(1, 3)), num_steps=7)
    resumed_input = make_input(FakeReader([5] * 9), frame_gap=(1, 3))
    resumed = batches(resumed_input, start_step=start, num_steps=7 - start)
    assert len(resumed) == 7 - start
    for first, second in zip(whole[start:], resumed, strict=True):
        assert_same(first, second)


def test_workers_read_slices_of_the_same_global_batch():
    whole = make_input(FakeReader([5] * 13), batch_size=6)
    readers = [FakeReader([5] * 13) for _ in range(3)]
    parts = [
        make_input(reader, batch_size=6, worker_index=i, num_workers=3)
        for i, reader in enumerate(readers)
    ]
    for step in range(4):
        slices = [part.load_step(step) for part in parts]
        joined = {name: np.concatenate([part[name] for part in slices]) for name in slices[0]}
        assert_same(whole.load_step(step), joined)
    assert [reader.num_reads for reader in readers] == [4 * 2 * 2] * 3


def test_one_frame_videos_are_skipped_and_counted():
    reader = FakeReader([1, 5, 1, 4, 3, 6, 1])
    inputs = make_input(reader)
    assert inputs.num_skipped_videos == 3 and inputs.steps_per_epoch == 1
    assert not {0, 4, 12} & set(inputs.load_step(0)["video_index"])
    assert make_input(reader, frame_gap=(0, 0)).num_skipped_videos == 0


def test_gaps_longer_than_a_video_are_counted():
    inputs = make_input(FakeReader([3] * 4), frame_gap=(9, 9))
    inputs.load_step(0)
    assert inputs.num_farthest_pairs == 4 and inputs.count.num_samples == 4


def test_more_samples_than_videos_is_a_user_error():
    with pytest.raises(UserError, match="--batch_size=5 is more than the 4 videos"):
        make_input(FakeReader([3] * 4), batch_size=5)


@pytest.mark.parametrize("kind", ["damaged", "garbled"])
def test_a_bad_sample_is_replaced_whole_and_named(kind, caplog):
    clean = make_input(FakeReader([2] * 6), batch_size=6).load_step(0)
    reader = FakeReader([2] * 6)
    bad_video = int(sampling.epoch_permutation(0, 0, 6)[2])
    getattr(reader, kind).add((bad_video, 1))
    inputs = make_input(reader, batch_size=6)
    with caplog.at_level("WARNING"):
        batch = inputs.load_step(0)
    assert f"frame 1 of video video{bad_video:03d}" in caplog.text
    assert (inputs.count.num_bad_samples, inputs.count.num_samples) == (1, 6)
    for step in range(1, 9):  # other epochs meet the same frame again
        inputs.load_step(step)
    assert inputs.count.num_bad_samples > 2
    named = [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()]
    assert len(named) == len(set(named)) < inputs.count.num_bad_samples
    for name in clean:
        expected = clean[name].copy()
        expected[2] = expected[3]
        np.testing.assert_array_equal(batch[name], expected, err_msg=name)


def test_a_frame_of_another_size_than_indexed_is_bad():
    reader = FakeReader([2] * 4)
    reader.heights[1] = 36
    true_pixels = reader.pixels
    reader.pixels = lambda video, frame: true_pixels(video, frame)[:32]
    inputs = make_input(reader)
    inputs.load_step(0)
    assert inputs.count.num_bad_samples == 1


def test_too_many_bad_frames_end_the_run_with_one_line():
    reader = FakeReader([2] * 8)
    reader.damaged = {(3, 0), (3, 1)}
    inputs = make_input(reader, batch_size=8, max_bad_fraction=0.002)
    with pytest.raises(UserError) as failure:
        batches(inputs, num_steps=10)  # the third bad sample exceeds 0.002 of 1000
    message = str(failure.value)
    # Steps are loaded in parallel, so the count may run ahead by one.
    assert message.split(" samples are unreadable")[0] in ("3 of 24", "3 of 32", "4 of 32")
    assert "\n" not in message
    assert "video003" in message and "--max_bad_fraction=0.002" in message
    assert len(batches(make_input(reader, batch_size=8), num_steps=3)) == 3


def test_a_batch_without_a_readable_sample_ends_the_run():
    reader = FakeReader([2] * 4)
    reader.garbled = {(video, frame) for video in range(4) for frame in range(2)}
    with pytest.raises(UserError, match="4 of 4 samples are unreadable"):
        batches(make_input(reader, max_bad_fraction=1.0), num_steps=1)


def test_other_errors_are_not_taken_for_the_users():
    reader = FakeReader([2] * 4)
    reader.read_frames = lambda videos, frames: 1 / 0
    with pytest.raises(tf.errors.OpError, match="ZeroDivisionError"):
        batches(make_input(reader), num_steps=1)


def test_the_dataset_is_deterministic_static_and_splits_over_replicas():
    reader = FakeReader([6] * 16, textured=True)
    inputs = make_input(reader, batch_size=8)
    dataset = inputs.dataset(num_steps=4)
    assert dataset.element_spec == inputs.element_spec
    loaded = [inputs.load_step(step) for step in range(4)]
    for first, second in zip(batches(inputs, num_steps=4), loaded, strict=True):
        assert_same(first, second)
    strategy = strategies.make_strategy("mirrored")
    for batch, whole in zip(strategy.experimental_distribute_dataset(dataset), loaded, strict=True):
        parts = strategy.experimental_local_results(batch["video_index"])
        assert [len(part) for part in parts] == [4, 4]
        np.testing.assert_array_equal(np.concatenate(parts), whole["video_index"])


def test_true_shards_give_the_frames_that_were_put_in(tmp_path):
    pattern = FakeReader([5, 4, 3, 1], sizes=(32, 40))
    for video, name in enumerate(pattern.names):
        (tmp_path / "input" / name).mkdir(parents=True)
        count = int(pattern.num_frames[video])
        for frame, jpeg in enumerate(pattern.read_frames([video] * count, range(count))):
            (tmp_path / "input" / name / f"frame{frame + 1:06d}.jpg").write_bytes(jpeg)
    options = plan.Options(str(tmp_path / "input"), str(tmp_path / "shards"), short_side=32)
    conversion.make_tfrecords(options, num_workers=1)
    reader = shard_reader.ShardReader([str(tmp_path / "shards")])
    inputs = make_input(reader, batch_size=3)
    assert inputs.num_skipped_videos == 1
    (batch,) = batches(inputs, num_steps=1)
    for i, row in enumerate(batch["video_index"]):
        video = pattern.names.index(reader.names[list(reader.rows).index(row)])
        first, second = (shown(batch[f"{view}_frames"][i]) for view in ("anchor", "positive"))
        assert first[0] == second[0] == video and abs(first[1] - second[1]) == 1
    with open(next((tmp_path / "shards").glob("*.tfrecord")), "r+b") as shard:
        shard.seek(-600, io.SEEK_END)
        shard.write(b"\0" * 300)
    damaged = shard_reader.ShardReader([str(tmp_path / "shards")])
    videos = np.repeat(range(4), reader.num_frames)
    frames = np.concatenate([np.arange(count) for count in reader.num_frames])
    problems = decoding.for_each_frame(damaged, videos, frames, lambda i, pixels: None)
    bad = [problem for problem in problems if problem]
    assert 1 <= len(bad) < 13 and all(".tfrecord" in problem for problem in bad)
