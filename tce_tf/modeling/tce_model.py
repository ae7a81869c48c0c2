"""How does TCE learn? One Keras model whose `train_step` is the whole method.

    anchor, positive, rotated views -> backbone -> heads -> NCE + rotation loss -> SGD -> bank

It runs the same under any `tf.distribute` strategy: for one global batch the loss, the weights and
the bank do not depend on how many replicas shared it (batch norm aside, unless synchronised).
"""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from tce_tf import compat
from tce_tf.modeling import heads, losses, memory_bank, mining, normalization, resnet

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


class TCEModel(keras.Model):
    """Backbone, heads and memory bank with the TCE training step.

    Calling it on normalised images float [B, H, W, 3] returns `features` [B, F] and `embeddings`
    [B, D] of unit norm. Under a strategy, make it, `initialize` it and build the optimizer inside
    the strategy's scope.

    Args:
      backbone: see `resnet.STAGES`.
      num_videos: N, rows of the bank.
      embedding_width: D.
      objective: the loss.
      live_rows: the bank rows that training visits; all by default.
      make_views: turns an input batch into the views `train_on_views` takes; identity by default.
      sync_batch_norm: batch norm over the batch of all replicas instead of each one's own.
      jit: compile the loss and its gradient with XLA. (Convolutions have `jit` of their own: they
        are slower under XLA on a CPU.)
      jit_step: the caller compiles the whole step: mine with what XLA takes.
      seed: of the initial weights and bank.
      dtype: Keras dtype policy of backbone and heads; loss and bank stay in float32 or wider.

    Raises:
      ValueError: more negatives than other live rows, or an unknown backbone or loss.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        *,
        num_videos: int,
        embedding_width: int = 128,
        objective: Objective | None = None,
        live_rows=None,
        make_views: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]] | None = None,
        sync_batch_norm: bool = False,
        jit: bool = True,
        jit_step: bool = False,
        seed: int = 0,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.objective = objective or Objective()
        sync = {"sync_batch_norm": sync_batch_norm}
        self.backbone = resnet.ResNet(backbone, seed=seed, dtype=dtype, **sync)
        self.projection = heads.ProjectionHead(embedding_width, seed=seed, dtype=dtype)
        self.rotation = heads.RotationHead(seed=seed, dtype=dtype, **sync)
        wide = "float64" if self.backbone.variable_dtype == "float64" else "float32"
        self.bank = memory_bank.MemoryBank(
            num_videos, embedding_width, live_rows=live_rows, seed=seed, dtype=wide
        )
        # Z; 0 until the first batch sets it.
        self.normalizer = self.add_weight(
            name="nce_normalizer",
            shape=(),
            dtype=wide,
            initializer="zeros",
            trainable=False,
            **compat.NO_AUTOCAST,
        )
        self._make_views = make_views or (lambda batch: batch)
        if self.objective.num_negatives > self.bank.num_live - 1:
            raise ValueError(
                f"{self.objective.num_negatives} negatives need at least "
                f"{self.objective.num_negatives + 1} videos, there are {self.bank.num_live}"
            )
        if self.objective.loss not in ("nce", "infonce"):
            raise ValueError(f"unknown loss '{self.objective.loss}': choose nce or infonce")
        self._jit_step = jit_step
        self._loss_from_scores = tf.function(self._compute_loss, jit_compile=jit or None)

    def initialize(self, image_size: int) -> None:
        """Creates every weight by one pass over a zero image [1, S, S, 3]; changes no statistics."""
        features = self(tf.zeros([1, image_size, image_size, 3]), training=False)["features"]
        self.rotation(features, training=False)

    def build(self, input_shape):
        self.built = True  # every part builds itself on its first call

    def call(self, images, training=False):
        features = self.backbone(images, training=training)
        return {"features": features, "embeddings": self.projection(features)}

    @property
    def optimized_weights(self) -> list:
        """The weights that the loss reaches: the rotation head is left out at weight 0."""
        if self.objective.rotation_weight:
            return self.trainable_weights
        return self.backbone.trainable_weights + self.projection.trainable_weights

    def choose_negatives(self, similarity, video_index, step):
        """Bank rows int32 [B, K] for each anchor, and how many of them were mined, int32 [B].

        Args:
          similarity: float [B, N], anchors against the bank.
          video_index: int [B], the anchors' own rows.
          step: int scalar, steps done.
        """
        objective, bank = self.objective, self.bank
        replica = tf.distribute.get_replica_context()
        replicas = replica.num_replicas_in_sync if replica else 1
        batch = tf.shape(video_index)[0]
        random_rows = mining.sample_random_negatives(
            video_index,
            bank.live_rows,
            objective.num_negatives,
            seed=tf.stack([tf.constant(objective.seed, tf.int64), tf.cast(step, tf.int64)]),
            slice_start=batch * (replica.replica_id_in_sync_group if replica else 0),
            num_anchors=batch * replicas,
        )
        if not objective.mining:
            return random_rows, tf.zeros_like(video_index, tf.int32)
        return mining.mine_hard_negatives(
            similarity,
            video_index,
            bank.live_mask,
            random_rows,
            tf.cast(self.mining_threshold(step), similarity.dtype),
            int(objective.max_hard_fraction * objective.num_negatives),
            under_xla=self._jit_step,
        )

    def mining_threshold(self, step):
        """The threshold in force at a step; a tensor for a tensor, see `mining.mining_threshold`."""
        objective = self.objective
        progress = tf.cast(step, tf.float64) / objective.total_steps
        return mining.mining_threshold(
            progress, objective.mining_low, objective.mining_high, objective.mining_rate
        )

    def train_step(self, batch):
        """One step on what the input pipeline gives; returns the logged scalars of this step."""
        return self.train_on_views(self._make_views(batch))

    def train_on_views(self, views):
        """One optimisation step.

        Args:
          views: `anchor`, `positive`, `rotated` float [B, H, W, 3] normalised; `rotation_label`
            int [B] in 0..3; `video_index` int [B], bank rows.

        Returns:
          Scalars, averaged over replicas: `METRICS` and `embedding_std`.
        """
        objective = self.objective
        replica = tf.distribute.get_replica_context()
        replicas = replica.num_replicas_in_sync if replica else 1
        video_index = views["video_index"]
        step = tf.convert_to_tensor(self.optimizer.iterations)
        with tf.GradientTape() as tape:
            anchor = self(views["anchor"], training=True)["embeddings"]
            positive = self(views["positive"], training=True)["embeddings"]
            if objective.rotation_weight:
                with tape.stop_recording(), tf.GradientTape() as rotated_tape:
                    features = self.backbone(views["rotated"], training=True)
                tape.watch(features)
                rotation_logits = self.rotation(features, training=True)
            else:
                rotation_logits = tf.zeros([tf.shape(anchor)[0], heads.NUM_ROTATIONS], anchor.dtype)
            loss, metrics = self.contrast(
                anchor, positive, rotation_logits, views["rotation_label"], video_index, step
            )
            # apply_gradients sums over replicas; the loss of the global batch is their mean.
            scaled_loss = loss / replicas
            if hasattr(self.optimizer, "get_scaled_loss"):  # Keras 2.15 mixed precision
                scaled_loss = self.optimizer.get_scaled_loss(scaled_loss)
            elif hasattr(self.optimizer, "scale_loss"):  # Keras 3; the plain ones return it as is
                scaled_loss = self.optimizer.scale_loss(scaled_loss)
        weights = self.optimized_weights
        variables = [compat.tf_variable(w) for w in weights]
        if objective.rotation_weight:
            # Two tapes, so that never three gradients of a weight are added at once: such a sum has
            # no fixed order (training/determinism.py).
            *gradients, features_gradient = tape.gradient(scaled_loss, [*variables, features])
            rotated = rotated_tape.gradient(features, variables, output_gradients=features_gradient)
            gradients = [g if r is None else g + r for g, r in zip(gradients, rotated, strict=True)]
        else:
            gradients = tape.gradient(scaled_loss, variables)
        if hasattr(self.optimizer, "get_unscaled_gradients"):
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))

        normalization.average_statistics(
            self.backbone.non_trainable_weights + self.rotation.non_trainable_weights
        )
        rows, embeddings = memory_bank.gather_replicas(video_index, tf.stop_gradient(anchor))
        self.bank.update(rows, embeddings)

        values = tf.stack([tf.cast(metrics[name], tf.float64) for name in METRICS])
        if replicas > 1:
            values = replica.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        logs = dict(zip(METRICS, tf.unstack(values), strict=True))
        # 0 is collapse, 1 / sqrt(D) healthy.
        logs["embedding_std"] = tf.reduce_mean(tf.math.reduce_std(embeddings, axis=0))
        return logs

    def contrast(self, anchor, positive, rotation_logits, rotation_label, video_index, step):
        """What stands between the heads and the gradient: negatives, scores, Z and the loss.

        Args:
          anchor: float [B, D], unit norm.
          positive: float [B, D], unit norm.
          rotation_logits: float [B, 4].
          rotation_label: int [B].
          video_index: int [B], the anchors' bank rows.
          step: int scalar, steps done.

        Returns:
          The total loss and `METRICS`, scalars of this replica.
        """
        similarity = tf.matmul(anchor, self.bank.lookup(), transpose_b=True)
        negatives, mined = self.choose_negatives(tf.stop_gradient(similarity), video_index, step)
        scores = losses.contrastive_scores(anchor, positive, similarity, negatives)
        normalizer = self._update_normalizer(scores)
        loss, metrics = self._loss_from_scores(scores, rotation_logits, rotation_label, normalizer)
        metrics["hard_negative_fraction"] = tf.reduce_mean(
            tf.cast(mined, loss.dtype) / self.objective.num_negatives
        )
        return loss, metrics

    def _update_normalizer(self, scores):
        """Z for this batch: the mean of exp(s/T) x N of the first batch, or its moving average."""
        mean = losses.mean_exponential(scores, self.objective.temperature)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            mean = replica.all_reduce(tf.distribute.ReduceOp.MEAN, mean)
        z, batch_z = tf.convert_to_tensor(self.normalizer), mean * self.bank.num_live
        momentum = self.objective.z_momentum
        z = tf.where(z > 0, momentum * z + (1 - momentum) * batch_z, batch_z)
        self.normalizer.assign(z)
        return z

    def _compute_loss(self, scores, rotation_logits, rotation_label, normalizer):
        """Total loss and the per-batch scalars, without variables, so that XLA may compile it."""
        objective = self.objective
        if objective.loss == "nce":
            contrast = losses.nce_loss(
                scores, normalizer, self.bank.num_live, objective.temperature
            )
        else:
            contrast = losses.info_nce_loss(scores, objective.temperature)
        rotation = losses.rotation_loss(rotation_logits, rotation_label)
        loss = contrast + objective.rotation_weight * tf.cast(rotation, contrast.dtype)
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
