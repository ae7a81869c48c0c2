"""What is a video to an evaluation? Mean of evenly spaced frames or stacks, runs, embedded frames."""

import os
import sys

import numpy as np
import pytest
import tensorflow as tf
from embedded import Frames, embed

from tce_tf import errors
from tce_tf.data import shard_reader
from tce_tf.evaluation import embedding, video_features

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "data"))
from fake_reader import FakeReader  # noqa: E402


class MeanColour:
    """An encoder whose feature is the mean colour: what it must return is known."""

    image_shape = (None, None, 3)
    variables, config = [], None

    def frames(self, frames):
        features = tf.reduce_mean(tf.cast(frames, tf.float32), [1, 2])
        return {"features": features, "embeddings": tf.math.l2_normalize(features, axis=-1)}


def test_features_are_the_mean_over_the_frames(synthetic_shards, tmp_path):
    reader = shard_reader.ShardReader([synthetic_shards["test"]])
    found = video_features.extract(MeanColour(), reader, frames_per_video=10)  # all of them
    rows = embed(MeanColour(), synthetic_shards["test"], tmp_path / "a.npz", batch_size=7)
    assert found.features.shape == (16, 3) and len(rows["names"]) == 160
    for video, name in enumerate(reader.names):
        mine = rows["names"] == name
        np.testing.assert_allclose(
            found.features[video], rows["features"][mine].mean(axis=0), rtol=1e-4
        )
        np.testing.assert_array_equal(rows["timestamps"][mine], reader.timestamps(video))
    np.testing.assert_array_equal(found.labels, reader.labels)


class FrameNumbers:
    """An encoder of stacks whose feature is the red level of each of its frames."""

    image_shape = (6, None, None, 3)
    variables, config = [], None

    def frames(self, stacks):
        assert stacks.shape[1] == 6
        features = tf.reduce_mean(tf.cast(stacks[..., 1], tf.float32), [2, 3])
        return {"features": features, "embeddings": tf.math.l2_normalize(features, axis=-1)}


def test_an_encoder_of_stacks_sees_consecutive_frames(tmp_path):
    reader = FakeReader([25, 4])  # frame t has green level 10 t
    found = video_features.extract(FrameNumbers(), reader, frames_per_video=5)
    # 20 places for a stack: the middles of five equal stretches, and the last frame past the end.
    starts = [2, 6, 10, 14, 18]
    expected = [np.mean([10 * (s + i) for s in starts]) for i in range(6)]
    np.testing.assert_allclose(found.features[0], expected, atol=1)
    np.testing.assert_allclose(found.features[1], [0, 10, 20, 30, 30, 30], atol=1)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, rtol=1e-6)

    runs = video_features.extract_runs(FrameNumbers(), reader, run_frames=4)
    expected = [[10 * (8 + t + i) for i in range(6)] for t in range(4)]
    np.testing.assert_allclose(runs["features"][0], expected, atol=1)
    assert runs["features"][1].shape == (1, 6)

    rows = embed(FrameNumbers(), Frames([8, 2]), tmp_path / "a.npz", batch_size=3)
    expected = [[10 * min(t + i, 7) for i in range(6)] for t in range(8)]
    expected += [[0, 10, 10, 10, 10, 10], [10] * 6]
    np.testing.assert_allclose(rows["features"], expected, atol=1e-4)
    assert rows["timestamps"].tolist() == [*range(8), 0, 1]
    row = embedding.embed_one(FrameNumbers(), Frames([8]), batch_size=3)
    np.testing.assert_allclose(row.features, [np.mean(expected[:8], axis=0)], rtol=1e-6)
    with pytest.raises(errors.UserError, match="is one picture, and the encoder sees motion"):
        embedding.embed_one(FrameNumbers(), Frames([1]))


def test_runs_lie_in_the_middle_and_may_be_of_some_videos():
    reader = FakeReader([9, 2, 5, 7])
    runs = video_features.extract_runs(MeanColour(), reader, run_frames=3)["features"]
    green = [np.round(run[:, 1] / 10).tolist() for run in runs]
    assert green == [[3, 4, 5], [0, 1], [1, 2, 3], [2, 3, 4]]
    two = video_features.extract_runs(MeanColour(), reader, run_frames=3, max_videos=2)["features"]
    assert [np.round(run[:, 1] / 10).tolist() for run in two] == [green[0], green[2]]
    with pytest.raises(errors.UserError, match="holds no video"):
        video_features.extract(MeanColour(), FakeReader([]))
