"""How does TCE learn? One Keras model whose `train_step` is the whole method.

    anchor, positive, rotated views -> backbone -> heads -> NCE + rotation loss -> SGD -> bank

It runs the same under any `tf.distribute` strategy: for one global batch the loss, the weights and
the bank do not depend on how many replicas shared it, nor on the parts that each takes one after the
other (batch norm aside, unless synchronised).
"""

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from tce_tf import compat
from tce_tf.modeling import (
    accumulation,
    contrast,
    heads,
    losses,
    memory_bank,
    normalization,
    resnet,
)
from tce_tf.modeling.objective import METRICS, Objective


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
      accumulate_steps: a step takes its batch in so many equal parts, one in memory at a time; it
        must divide each replica's batch. Batch norm is of each part by itself, as if it were a
        replica's; all else is as with the whole batch.
      jit: compile the loss and its gradient with XLA. (Convolutions have `jit` of their own: they
        are slower under XLA on a CPU.)
      jit_step: the caller compiles the whole step: mine with what XLA takes.
      seed: of the initial weights and bank.
      dtype: Keras dtype policy of backbone and heads; loss and bank stay in float32 or wider.

    Raises:
      ValueError: more negatives than other live rows, an unknown backbone or loss, or batch norm
        synchronised over a batch that is taken in parts.
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
        accumulate_steps: int = 1,
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
        if sync_batch_norm and accumulate_steps > 1:
            raise ValueError(
                "parts of a batch cannot share batch norm: one is gone before the next"
            )
        self.accumulate_steps = accumulate_steps
        self.contrast = contrast.Contrast(
            self.objective,
            self.bank,
            self.normalizer,
            parts=accumulate_steps,
            jit=jit,
            under_xla=jit_step,
        )

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

    def train_step(self, batch):
        """One step on what the input pipeline gives; returns the logged scalars of this step."""
        return self._train(batch, self._make_views)

    def train_on_views(self, views):
        """One optimisation step.

        Args:
          views: `anchor`, `positive`, `rotated` float [B, H, W, 3] normalised; `rotation_label`
            int [B] in 0..3; `video_index` int [B], bank rows.

        Returns:
          Scalars, averaged over replicas: `METRICS` and `embedding_std`.
        """
        return self._train(views, lambda views: views)

    def _train(self, batch, make_views):
        replica = tf.distribute.get_replica_context()
        replicas = replica.num_replicas_in_sync if replica else 1
        parts = self.accumulate_steps
        step = tf.convert_to_tensor(self.optimizer.iterations)
        weights = self.optimized_weights
        variables = [compat.tf_variable(weight) for weight in weights]
        statistics = self.backbone.non_trainable_weights + self.rotation.non_trainable_weights
        normalizer, before = None, []
        if parts > 1:  # all parts share Z, and start from the same moving statistics
            before = [normalization.pack(statistics)]
            normalizer = self.contrast.update_normalizer(
                self._mean_exponential(batch, make_views, step)
            )

        def of_part(number, part):
            for packed in before:
                normalization.unpack(packed, statistics)
            gradients, values, anchor = self._gradients(
                make_views(part), variables, step, number, normalizer
            )
            moved = [normalization.pack(statistics) for _ in before]
            return [values, *moved, *gradients], anchor

        (values, *sums), anchor = accumulation.over_parts(
            of_part,
            batch,
            parts,
            [tf.zeros([len(METRICS)], tf.float64), *map(tf.zeros_like, [*before, *variables])],
            self._no_rows(batch),
        )
        for packed in sums[: len(before)]:
            normalization.unpack(packed / parts, statistics)
        gradients = compat.unscaled_gradients(self.optimizer, sums[len(before) :])
        compat.apply_gradients(self.optimizer, gradients, weights)

        normalization.average_statistics(statistics)
        rows, embeddings = memory_bank.gather_replicas(
            batch["video_index"], tf.stop_gradient(anchor)
        )
        self.bank.update(rows, embeddings)

        values /= parts
        if replicas > 1:
            values = replica.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        logs = dict(zip(METRICS, tf.unstack(values), strict=True))
        # 0 is collapse, 1 / sqrt(D) healthy.
        logs["embedding_std"] = tf.reduce_mean(tf.math.reduce_std(embeddings, axis=0))
        return logs

    def _gradients(self, views, variables, step, part, normalizer):
        """Gradients of this part's share in the loss, `METRICS` float64 stacked, anchors [B, D]."""
        replica = tf.distribute.get_replica_context()
        shares = (replica.num_replicas_in_sync if replica else 1) * self.accumulate_steps
        with tf.GradientTape() as tape:
            anchor = self(views["anchor"], training=True)["embeddings"]
            positive = self(views["positive"], training=True)["embeddings"]
            if self.objective.rotation_weight:
                with tape.stop_recording(), tf.GradientTape() as rotated_tape:
                    features = self.backbone(views["rotated"], training=True)
                tape.watch(features)
                rotation_logits = self.rotation(features, training=True)
            else:
                rotation_logits = tf.zeros([tf.shape(anchor)[0], heads.NUM_ROTATIONS], anchor.dtype)
            loss, metrics = self.contrast(
                anchor,
                positive,
                rotation_logits,
                views["rotation_label"],
                views["video_index"],
                step,
                part,
                normalizer,
            )
            # Parts and replicas are summed; the loss of the global batch is their mean.
            scaled_loss = compat.scaled_loss(self.optimizer, loss / shares)
        if self.objective.rotation_weight:
            # Two tapes, so that never three gradients of a weight are added at once: such a sum has
            # no fixed order (training/determinism.py).
            *gradients, features_gradient = tape.gradient(scaled_loss, [*variables, features])
            rotated = rotated_tape.gradient(features, variables, output_gradients=features_gradient)
            gradients = [g if r is None else g + r for g, r in zip(gradients, rotated, strict=True)]
        else:
            gradients = tape.gradient(scaled_loss, variables)
        return gradients, tf.stack([tf.cast(metrics[n], tf.float64) for n in METRICS]), anchor

    def _mean_exponential(self, batch, make_views, step):
        """Z / N of this replica's batch, by a forward pass of its own; 0 where Z stays as it is.

        Every part's loss needs the Z of all of them. The pass moves batch norm's statistics.
        """
        zero = tf.zeros([], self.normalizer.dtype)

        def of_part(number, part):
            views = make_views(part)
            anchor = self(views["anchor"], training=True)["embeddings"]
            positive = self(views["positive"], training=True)["embeddings"]
            scores, _ = self.contrast.score(anchor, positive, views["video_index"], step, number)
            return [losses.mean_exponential(scores, self.objective.temperature)], anchor

        def measure():
            parts = self.accumulate_steps
            (total,), _ = accumulation.over_parts(
                of_part, batch, parts, [zero], self._no_rows(batch)
            )
            return total / parts

        if self.objective.z_momentum < 1:
            return measure()
        return tf.cond(tf.convert_to_tensor(self.normalizer) > 0, lambda: zero, measure)

    def _no_rows(self, batch):
        """Zeros [B, D], in the shape and dtype of a batch's embeddings."""
        return tf.zeros([tf.shape(batch["video_index"])[0], self.bank.width], self.normalizer.dtype)
