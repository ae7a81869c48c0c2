"""What does an encoder make of a video? The mean feature of evenly spaced frames, and its kNN score."""

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf import errors
from tce_tf.data import pipeline, shard_reader, video_frames
from tce_tf.evaluation import knn


@dataclasses.dataclass(frozen=True)
class VideoFeatures:
    """One row a video.

    Attributes:
      features: float32 [V, F], the mean over the frames.
      embeddings: float32 [V, D], the mean over the frames, of unit norm.
      labels: int64 [V], -1 for none.
    """

    features: np.ndarray
    embeddings: np.ndarray
    labels: np.ndarray


def extract(
    encoder, reader: shard_reader.ShardReader, *, frames_per_video: int = 8
) -> VideoFeatures:
    """Encodes evenly spaced frames of every video, in the reader's order.

    Args:
      encoder: has `clip`, as `serving.EncoderModule` or a loaded export.
      reader: the shards.
      frames_per_video: frames averaged.
    """
    features, embeddings, labels = [], [], []
    with pipeline.user_errors():
        for video in video_frames.frames_dataset(reader, frames_per_video=frames_per_video):
            outputs = encoder.clip(video["frames"][tf.newaxis])
            features.append(outputs["features"][0].numpy())
            embeddings.append(outputs["embeddings"][0].numpy())
            labels.append(int(video["label"]))
    return VideoFeatures(np.stack(features), np.stack(embeddings), np.array(labels))


def evaluate_knn(
    encoder,
    *,
    train: shard_reader.ShardReader,
    test: shard_reader.ShardReader,
    k: int = 1,
    frames_per_video: int = 8,
) -> dict:
    """kNN accuracy of test videos voted on by training videos, on cosine of the features.

    Returns:
      `knn.top1`, `knn.top5` in [0, 1]; `per_class` and `per_dataset`: name -> top-1. A data set is
      the first part of a video's name (`ucf101/...`), where the names have one.

    Raises:
      errors.UserError: unlabelled shards, other classes in train than in test, a group in both.
    """
    check_labelled(train, test)
    train_features = extract(encoder, train, frames_per_video=frames_per_video)
    test_features = extract(encoder, test, frames_per_video=frames_per_video)

    def score(chosen):
        return knn.knn_accuracy(
            train_features.features,
            train_features.labels,
            test_features=test_features.features[chosen],
            test_labels=test_features.labels[chosen],
            k=k,
            num_classes=len(train.class_names),
        )

    result = score(np.arange(len(test_features.labels)))
    result["per_class"] = {
        train.class_names[label]: top1 for label, top1 in result["per_class"].items()
    }
    datasets = np.array([name.split("/")[0] if name.count("/") > 1 else "" for name in test.names])
    result["per_dataset"] = {
        str(name): score(np.flatnonzero(datasets == name))["knn.top1"]
        for name in np.unique(datasets)
        if name
    }
    return result


def check_labelled(train: shard_reader.ShardReader, test: shard_reader.ShardReader) -> None:
    """Refuses what would make a score meaningless.

    Raises:
      errors.UserError: unlabelled videos, different class lists, or groups shared by both sides.
    """
    for reader in (train, test):
        where = ",".join(reader.folders)
        if not reader.class_names or np.any(reader.labels < 0):
            raise errors.UserError(f"{where}: has videos without a label, evaluation needs all")
    if train.class_names != test.class_names:
        raise errors.UserError(
            f"{','.join(train.folders)} and {','.join(test.folders)} have different class lists: "
            "make both with the same --split_dir"
        )
    unknown = sum(not group for reader in (train, test) for group in reader.groups)
    if unknown:
        logging.warning("%d videos have no known group: leakage is not checked for them", unknown)
    shared = {g for g in train.groups if g} & {g for g in test.groups if g}
    if shared:
        raise errors.UserError(
            f"leakage: {len(shared)} groups are in both train and test, such as {min(shared)}"
        )
