"""Which frames of a video does evaluation see, and what if some are damaged?"""

import numpy as np
import pytest
from fake_reader import FakeReader, shown

from tce_tf.data import pipeline, sampling, video_frames
from tce_tf.errors import UserError


def test_evaluation_frames_are_whole_and_evenly_spaced():
    sizes = [(32, 48), (40, 24), (32, 32)]
    reader = FakeReader([20, 3, 1], sizes=sizes, first_row=5)
    videos = list(video_frames.frames_dataset(reader, frames_per_video=4).as_numpy_iterator())
    assert [video["video_index"] for video in videos] == [5, 7, 9]
    assert [video["label"] for video in videos] == [0, 1, 0]
    for number, (video, size) in enumerate(zip(videos, sizes, strict=True)):
        assert video["frames"].shape == (4, *size, 3) and video["frames"].dtype == np.uint8
        wanted = sampling.evenly_spaced_frames(int(reader.num_frames[number]), 4)
        assert [shown(frame) for frame in video["frames"]] == [(number, t) for t in wanted]


def test_evaluation_replaces_bad_frames_and_refuses_videos_without_good_ones():
    reader = FakeReader([4, 2])
    reader.damaged = {(0, 1)}
    first = next(iter(video_frames.frames_dataset(reader, frames_per_video=4)))
    assert [shown(frame) for frame in first["frames"].numpy()] == [(0, 0), (0, 0), (0, 2), (0, 3)]
    reader.garbled = {(1, 0), (1, 1)}
    with pytest.raises(UserError, match="no readable frame: .*video001"), pipeline.user_errors():
        list(video_frames.frames_dataset(reader, frames_per_video=4))


def test_stacks_are_consecutive_and_repeat_the_last_frame():
    even, run = video_frames.evenly_spaced_images, video_frames.consecutive_images
    np.testing.assert_array_equal(even(30, 3), sampling.evenly_spaced_frames(30, 3))
    np.testing.assert_array_equal(even(9, 2, stack_frames=6), [range(1, 7), range(3, 9)])
    np.testing.assert_array_equal(even(2, 2, stack_frames=3), [[0, 1, 1]] * 2)
    np.testing.assert_array_equal(run(10, 4), [3, 4, 5, 6])
    np.testing.assert_array_equal(run(3, 4), [0, 1, 2])
    np.testing.assert_array_equal(run(9, 2, stack_frames=6), [range(1, 7), range(2, 8)])
    np.testing.assert_array_equal(run(2, 5, stack_frames=3), [[0, 1, 1]])


def test_stacks_read_each_frame_once_and_repair_it():
    reader = FakeReader([12, 2])
    reader.damaged = {(0, 4)}
    dataset = video_frames.frames_dataset(
        reader, frames_per_video=3, stack_frames=4, consecutive=True, videos=[0]
    )
    (video,) = dataset.as_numpy_iterator()
    assert video["frames"].shape == (3, 4, 32, 40, 3)
    seen = [[shown(frame)[1] for frame in stack] for stack in video["frames"]]
    assert seen == [[3, 3, 5, 6], [3, 5, 6, 7], [5, 6, 7, 8]]  # 4 is lost: 3 takes its place
    assert reader.num_reads == 6 + 6  # all at once, then one by one to find the damaged one
