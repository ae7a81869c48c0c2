"""What is fine-tuned? The backbone with a linear classifier, on the summed logits of a video's parts."""

import functools
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from tce_tf import compat
from tce_tf.modeling import heads, normalization, resnet

METRICS = ("loss", "accuracy")


class ActionClassifier(keras.Model):
    """Backbone, dropout and a linear layer, with the training step of TCE's fine-tuning.

    Calling it on normalised images float [B, H, W, C] returns logits float [B, classes]. Under a
    strategy, make it, `initialize` it and build the optimizer inside the strategy's scope.

    Args:
      backbone: see `resnet.STAGES`.
      num_classes: width of the logits.
      input_mode: one of `resnet.INPUT_CHANNELS`.
      dropout: share of the features dropped in training, in [0, 1).
      freeze_backbone: leave the backbone and its batch-norm statistics as they are; only the linear
        layer learns.
      make_views: turns an input batch into what `train_on_views` takes; identity by default.
      sync_batch_norm: batch norm over the global batch.
      seed: of the initial weights and of dropout.
      dtype: Keras dtype policy; the loss stays in float32 or wider.

    Raises:
      ValueError: an unknown backbone.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        *,
        num_classes: int,
        input_mode: str = "rgb",
        dropout: float = 0.0,
        freeze_backbone: bool = False,
        make_views: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]] | None = None,
        sync_batch_norm: bool = False,
        seed: int = 0,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.backbone = resnet.ResNet(
            backbone, sync_batch_norm=sync_batch_norm, seed=seed, dtype=dtype
        )
        self.classifier = heads.Linear(
            num_classes, seed=resnet.layer_seed(seed, "fc"), dtype=dtype, name="classifier"
        )
        self.input_mode, self.dropout, self.freeze_backbone = input_mode, dropout, freeze_backbone
        self._seed = seed
        self._make_views = make_views or (lambda batch: batch)

    def initialize(self, image_size: int) -> None:
        """Creates every weight by one pass over a zero image; changes no statistics."""
        channels = resnet.INPUT_CHANNELS[self.input_mode]
        self(tf.zeros([1, image_size, image_size, channels]), training=False)

    def build(self, input_shape):
        self.built = True  # every part builds itself on its first call

    def call(self, images, training=False, dropout_seed=None):
        features = self.backbone(images, training=training and not self.freeze_backbone)
        if training and self.dropout:
            kept = tf.nn.experimental.stateless_dropout(features, self.dropout, seed=dropout_seed)
            features = tf.cast(kept, features.dtype)
        logits = self.classifier(features)
        return tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits

    @property
    def optimized_weights(self) -> list:
        """The weights that learn."""
        return self.classifier.trainable_weights if self.freeze_backbone else self.trainable_weights

    def train_step(self, batch):
        """One step on what the input pipeline gives; returns the logged scalars of this step."""
        return self.train_on_views(self._make_views(batch))

    def train_on_views(self, views):
        """One optimisation step on the cross-entropy of the summed logits.

        Each part of a video is a forward pass of its own, as published: batch norm sees one frame
        (or stack) a video at a time.

        Args:
          views: `images` float [B, S, H, W, C] normalised; `label` int [B].

        Returns:
          Scalars, averaged over replicas: `loss`, and `accuracy` in [0, 1] of the summed logits.
        """
        replica = tf.distribute.get_replica_context()
        replicas = replica.num_replicas_in_sync if replica else 1
        number = tf.cast(replica.replica_id_in_sync_group if replica else 0, tf.int64)
        step = tf.cast(self.optimizer.iterations, tf.int64)
        images, label = views["images"], views["label"]
        weights = self.optimized_weights
        variables = [compat.tf_variable(w) for w in weights]
        # A tape a part, so that never three gradients of a weight are added at once: such a sum has
        # no fixed order (training/determinism.py).
        tapes, parts = [], []
        for part in range(images.shape[1]):
            # A draw for each step, part and replica.
            stream = (step * images.shape[1] + part) * replicas + number
            seed = tf.stack([tf.constant(self._seed, tf.int64), stream])
            with tf.GradientTape() as tape:
                parts.append(self(images[:, part], training=True, dropout_seed=seed))
            tapes.append(tape)
        logits = functools.reduce(tf.add, parts)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
            )
            # apply_gradients sums over replicas; the loss of the global batch is their mean.
            scaled_loss = compat.scaled_loss(self.optimizer, loss / replicas)
        of_logits = tape.gradient(scaled_loss, logits)
        gradients = None
        for tape, output in zip(tapes, parts, strict=True):
            found = tape.gradient(output, variables, output_gradients=of_logits)
            gradients = (
                found
                if gradients is None
                else [a + b for a, b in zip(gradients, found, strict=True)]
            )
        gradients = compat.unscaled_gradients(self.optimizer, gradients)
        compat.apply_gradients(self.optimizer, gradients, weights)
        if not self.freeze_backbone:
            normalization.average_statistics(self.backbone.non_trainable_weights)
        hits = tf.argmax(logits, axis=1, output_type=label.dtype) == label
        values = tf.stack([loss, tf.reduce_mean(tf.cast(hits, loss.dtype))])
        if replicas > 1:
            values = replica.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        return dict(zip(METRICS, tf.unstack(values), strict=True))
