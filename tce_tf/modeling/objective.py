"""What is minimised? The contrastive and the rotation loss, weighted, and what is logged of them."""

import dataclasses

import tensorflow as tf

from tce_tf.modeling import losses, mining

METRICS = (
    "loss",
    "nce_loss",
    "rotation_loss",
    "rotation_accuracy",
    "contrast_accuracy",
    "positive_similarity",
    "negative_similarity",
    "hard_negative_fraction",
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the loss is made of. Defaults are the paper's (and the published configuration's).

    Attributes:
      num_negatives: K, at most one less than the number of live bank rows.
      temperature: T.
      loss: `nce` or `infonce`.
      rotation_weight: weight of the rotation loss; 0 leaves the rotated pass out.
      mining: whether hard negatives are mined; without it all negatives are random.
      mining_low, mining_high, mining_rate: see `mining.mining_threshold`.
      max_hard_fraction: at most this share of K is mined.
      z_momentum: 1 keeps the NCE normaliser Z of the first batch (published); below 1 it is the
        moving average Z <- momentum Z + (1 - momentum) Z_batch.
      total_steps: the length of the whole training, over which the threshold rises.
      seed: of the random negatives.
    """

    num_negatives: int = 8192
    temperature: float = 0.07
    loss: str = "nce"
    rotation_weight: float = 1.0
    mining: bool = True
    mining_low: float = -1.0
    mining_high: float = 1.0
    mining_rate: float = 5.0
    max_hard_fraction: float = 1.0
    z_momentum: float = 1.0
    total_steps: int = 1
    seed: int = 0

    def mining_threshold(self, step):
        """The threshold in force at a step; a tensor for a tensor, see `mining.mining_threshold`."""
        progress = tf.cast(step, tf.float64) / self.total_steps
        return mining.mining_threshold(
            progress, self.mining_low, self.mining_high, self.mining_rate
        )

    def compute_loss(self, scores, rotation_logits, rotation_label, normalizer, num_videos):
        """The loss of a batch. Touches no variable, so that XLA may compile it.

        Args:
          scores: float [B, 1 + K], the positive first.
          rotation_logits: float [B, 4].
          rotation_label: int [B] in 0..3.
          normalizer: scalar Z.
          num_videos: N.

        Returns:
          The total loss, and `METRICS` but for the mined share; scalars.
        """
        if self.loss == "nce":
            contrast = losses.nce_loss(scores, normalizer, num_videos, self.temperature)
        else:
            contrast = losses.info_nce_loss(scores, self.temperature)
        rotation = losses.rotation_loss(rotation_logits, rotation_label)
        loss = contrast + self.rotation_weight * tf.cast(rotation, contrast.dtype)
        # Only shown: without a gradient, so that the one of the scores is no sum of three terms, whose
        # order would vary (training/determinism.py).
        scores = tf.stop_gradient(scores)
        predicted = tf.argmax(rotation_logits, axis=1, output_type=rotation_label.dtype)
        hit = scores[:, 0] > tf.reduce_max(scores[:, 1:], axis=1)
        metrics = {
            "loss": loss,
            "nce_loss": contrast,
            "rotation_loss": rotation,
            "rotation_accuracy": tf.reduce_mean(tf.cast(predicted == rotation_label, tf.float32)),
            "contrast_accuracy": tf.reduce_mean(tf.cast(hit, tf.float32)),
            "positive_similarity": tf.reduce_mean(scores[:, 0]),
            "negative_similarity": tf.reduce_mean(scores[:, 1:]),
        }
        return loss, metrics
