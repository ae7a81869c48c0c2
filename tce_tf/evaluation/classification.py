"""How well does a classifier name the action of a video? Summed logits of evenly spaced frames."""

import numpy as np

from tce_tf.data import pipeline, shard_reader, video_frames
from tce_tf.evaluation import video_features


def video_logits(
    classifier, reader: shard_reader.ShardReader, *, frames_per_video: int = 19
) -> np.ndarray:
    """Scores every video, in the reader's order: float32 [V, classes].

    Args:
      classifier: has `frames` and `image_shape`, as `serving.classifier_module`'s or its export.
      reader: the shards.
      frames_per_video: evenly spaced frames (or stacks) whose logits are summed; 19 as published.
    """
    dataset = video_frames.frames_dataset(
        reader,
        frames_per_video=frames_per_video,
        stack_frames=video_features.stack_frames(classifier),
    )
    with pipeline.user_errors():
        return np.stack(
            [classifier.frames(video["frames"])["logits"].numpy().sum(axis=0) for video in dataset]
        )
