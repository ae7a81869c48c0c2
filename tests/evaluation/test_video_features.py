"""Are videos scored as stated? Mean of evenly spaced frames, leakage refused, frames embedded."""

import types

import numpy as np
import pytest
import tensorflow as tf

from tce_tf import errors
from tce_tf.data import shard_reader
from tce_tf.evaluation import embedding, video_features


class MeanColour:
    """An encoder whose feature is the mean colour: what it must return is known."""

    def frames(self, frames):
        features = tf.reduce_mean(tf.cast(frames, tf.float32), [1, 2])
        return {"features": features, "embeddings": tf.math.l2_normalize(features, axis=-1)}

    def clip(self, clip):
        per_frame = self.frames(clip[0])
        return {name: tf.reduce_mean(x, 0, keepdims=True) for name, x in per_frame.items()}


def test_features_are_the_mean_over_the_frames(synthetic_shards):
    reader = shard_reader.ShardReader([synthetic_shards["test"]])
    found = video_features.extract(MeanColour(), reader, frames_per_video=10)  # all of them
    rows = embedding.embed(MeanColour(), synthetic_shards["test"], batch_size=7)
    assert found.features.shape == (16, 3) and len(rows["names"]) == 160
    for video, name in enumerate(reader.names):
        mine = rows["names"] == name
        np.testing.assert_allclose(
            found.features[video], rows["features"][mine].mean(axis=0), rtol=1e-4
        )
        np.testing.assert_array_equal(rows["timestamps"][mine], reader.timestamps(video))
    np.testing.assert_array_equal(found.labels, reader.labels)


def test_knn_on_itself_is_perfect_and_leakage_is_refused(synthetic_shards):
    train = shard_reader.ShardReader([synthetic_shards["train"]])
    test = shard_reader.ShardReader([synthetic_shards["test"]])
    scores = video_features.evaluate_knn(MeanColour(), train=train, test=test)
    assert 0 <= scores["knn.top1"] <= scores["knn.top5"] <= 1
    assert set(scores["per_class"]) == set(test.class_names)
    with pytest.raises(errors.UserError, match="leakage: .* groups are in both"):
        video_features.evaluate_knn(MeanColour(), train=train, test=train)


def test_other_classes_or_no_labels_are_refused(synthetic_shards):
    train = shard_reader.ShardReader([synthetic_shards["train"]])

    def like(**changes):
        fields = {"folders": ["x"], "class_names": train.class_names, "labels": train.labels}
        return types.SimpleNamespace(**(fields | {"groups": []} | changes))

    with pytest.raises(errors.UserError, match="without a label"):
        video_features.check_labelled(train, like(labels=np.array([0, -1])))
    with pytest.raises(errors.UserError, match="different class lists"):
        video_features.check_labelled(train, like(class_names=["other"]))


def test_pooled_embedding_and_file(synthetic_shards, tmp_path):
    rows = embedding.embed(MeanColour(), synthetic_shards["test"], pool="video")
    assert rows["features"].shape == (16, 3)
    np.testing.assert_allclose(np.linalg.norm(rows["embeddings"], axis=1), 1, rtol=1e-6)
    path = str(tmp_path / "out" / "a.npz")
    embedding.save(path, rows)
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["features"], rows["features"])
        assert saved["names"].tolist() == rows["names"].tolist()
    with pytest.raises(errors.FlagError, match="must end in .npz"):
        embedding.save(str(tmp_path / "a.txt"), rows)


def test_unknown_groups_are_said(synthetic_shards, caplog):
    train = shard_reader.ShardReader([synthetic_shards["train"]])
    test = shard_reader.ShardReader([synthetic_shards["test"]])
    with caplog.at_level("WARNING", logger="absl"):
        video_features.check_labelled(train, test)
        assert "leakage is not checked" not in caplog.text
        test.groups = [None] * len(test.groups)
        video_features.check_labelled(train, test)
    assert f"{len(test.groups)} videos have no known group" in caplog.text
