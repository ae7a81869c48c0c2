"""How far does one get without an encoder? 1-NN by correlation on a video's mean frame.

The mean of 10 frames at 32 x 32 px: of 16, 32 and 64 px, colour and grey, Euclidean, cosine and
correlation the highest on split 1 of combined9, because a floor that is easy to beat shows nothing.
"""

import harness  # noqa: F401 -- isort: skip -- makes tce_tf importable
import numpy as np


def scores(train: str, test: str) -> dict[str, float]:
    """Top-1 in percent of two folders of shards: of `all` test videos, and of each data set."""
    import tensorflow as tf

    from tce_tf.data import shard_reader, video_frames
    from tce_tf.evaluation import protocols

    def features(reader):
        means = np.stack(
            [
                tf.reduce_mean(tf.image.resize(v["frames"], [32, 32], antialias=True), 0).numpy()
                for v in video_frames.frames_dataset(reader, frames_per_video=10)
            ]
        ).reshape(len(reader.names), -1)
        means -= means.mean(axis=1, keepdims=True)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    readers = [shard_reader.ShardReader([folder]) for folder in (train, test)]
    known, asked = map(features, readers)
    right = readers[0].labels[(asked @ known.T).argmax(axis=1)] == readers[1].labels
    parts = {"all": np.ones(len(right), bool)} | protocols.datasets(readers[1])
    return {name: 100 * float(right[inside].mean()) for name, inside in parts.items()}
