"""How far is a batch from being told apart? Negatives, scores, the normaliser Z and the loss."""

import tensorflow as tf

from tce_tf.modeling import losses, memory_bank, mining
from tce_tf.modeling.objective import Objective


class Contrast:
    """What stands between the heads and the gradient. Owns no variable: the bank and Z are given.

    Calling it gives the total loss and what is logged of it.

    Args:
      objective: the loss.
      bank: the embeddings that anchors are compared with.
      normalizer: variable Z; 0 until the first batch sets it.
      parts: equal parts in which each replica's batch is taken.
      jit: compile the loss with XLA.
      under_xla: the caller compiles the whole step: mine with what XLA takes.

    Raises:
      ValueError: more negatives than other live rows, or an unknown loss.
    """

    def __init__(
        self,
        objective: Objective,
        bank: memory_bank.MemoryBank,
        normalizer,
        *,
        parts: int = 1,
        jit: bool = True,
        under_xla: bool = False,
    ):
        if objective.num_negatives > bank.num_live - 1:
            raise ValueError(
                f"{objective.num_negatives} negatives need at least "
                f"{objective.num_negatives + 1} videos, there are {bank.num_live}"
            )
        if objective.loss not in ("nce", "infonce"):
            raise ValueError(f"unknown loss '{objective.loss}': choose nce or infonce")
        self.objective, self.bank, self.normalizer = objective, bank, normalizer
        self._parts, self._under_xla = parts, under_xla
        self._loss_from_scores = tf.function(
            objective.compute_loss, jit_compile=jit or None, autograph=False
        )

    def __call__(
        self,
        anchor,
        positive,
        rotation_logits,
        rotation_label,
        video_index,
        step,
        part=0,
        normalizer=None,
    ):
        """The loss of a batch.

        Args:
          anchor: float [B, D], unit norm.
          positive: float [B, D], unit norm.
          rotation_logits: float [B, 4].
          rotation_label: int [B].
          video_index: int [B], the anchors' bank rows.
          step: int scalar, steps done.
          part: see `choose_negatives`.
          normalizer: Z; by default it follows from these scores, and is kept.

        Returns:
          The total loss and `METRICS`, scalars of this replica.
        """
        scores, mined = self.score(anchor, positive, video_index, step, part)
        if normalizer is None:
            mean = losses.mean_exponential(scores, self.objective.temperature)
            normalizer = self.update_normalizer(mean)
        loss, metrics = self._loss_from_scores(
            scores, rotation_logits, rotation_label, normalizer, self.bank.num_live
        )
        metrics["hard_negative_fraction"] = tf.reduce_mean(
            tf.cast(mined, loss.dtype) / self.objective.num_negatives
        )
        return loss, metrics

    def choose_negatives(self, similarity, video_index, step, part=0):
        """Bank rows int32 [B, K] for each anchor, and how many of them were mined, int32 [B].

        Args:
          similarity: float [B, N], anchors against the bank.
          video_index: int [B], the anchors' own rows.
          step: int scalar, steps done.
          part: int, which of its parts a replica is at.
        """
        objective, bank = self.objective, self.bank
        replica = tf.distribute.get_replica_context()
        replicas = replica.num_replicas_in_sync if replica else 1
        number = replica.replica_id_in_sync_group if replica else 0
        batch = tf.shape(video_index)[0]
        random_rows = mining.sample_random_negatives(
            video_index,
            bank.live_rows,
            objective.num_negatives,
            seed=tf.stack([tf.constant(objective.seed, tf.int64), tf.cast(step, tf.int64)]),
            slice_start=batch * (number * self._parts + part),
            num_anchors=batch * self._parts * replicas,
        )
        if not objective.mining:
            return random_rows, tf.zeros_like(video_index, tf.int32)
        return mining.mine_hard_negatives(
            similarity,
            video_index,
            bank.live_mask,
            random_rows,
            tf.cast(objective.mining_threshold(step), similarity.dtype),
            int(objective.max_hard_fraction * objective.num_negatives),
            under_xla=self._under_xla,
        )

    def score(self, anchor, positive, video_index, step, part):
        """Scores [B, 1 + K] and how many of the negatives were mined, int32 [B]."""
        similarity = tf.matmul(anchor, self.bank.lookup(), transpose_b=True)
        negatives, mined = self.choose_negatives(
            tf.stop_gradient(similarity), video_index, step, part
        )
        return losses.contrastive_scores(anchor, positive, similarity, negatives), mined

    def update_normalizer(self, mean):
        """Z for this batch: N times the mean of exp(s/T) of the first batch, or a moving average.

        Args:
          mean: this replica's mean of exp(s/T); not looked at where Z stays as it is.
        """
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            mean = replica.all_reduce(tf.distribute.ReduceOp.MEAN, mean)
        z, batch_z = tf.convert_to_tensor(self.normalizer), mean * self.bank.num_live
        momentum = self.objective.z_momentum
        z = tf.where(z > 0, momentum * z + (1 - momentum) * batch_z, batch_z)
        self.normalizer.assign(z)
        return z
