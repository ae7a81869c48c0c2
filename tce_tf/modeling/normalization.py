"""How is a batch normalised? As PyTorch does it, on both Keras versions and in every precision.

Keras differs from the published code in what it keeps for inference: Keras 3 the biased batch
variance, Keras 2.15 the unbiased one in its fused float32 form only (golden/README: 4e-3 on deep
layers, 2e-2 on the rotation head). This layer keeps the unbiased variance everywhere.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tce_tf import compat

# torch.nn.BatchNorm2d's momentum of 0.1 is the weight of the new value, Keras's that of the old.
MOMENTUM = 0.9
EPSILON = 1e-5


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015).

    With batch mean m and biased variance v over n values a channel, training gives
    `gamma (x - m) / sqrt(v + 1e-5) + beta` and moves

        moving_mean     <- 0.9 moving_mean     + 0.1 m
        moving_variance <- 0.9 moving_variance + 0.1 v n / (n - 1)

    Each replica normalises by its own batch, or, `synchronized`, by that of all replicas, as one
    replica with the whole batch would. Either way each moves its own copy of the statistics:
    `average_statistics` makes them equal again, once a step. The call takes [B, C] or [B, H, W, C]
    of any float dtype and returns the same shape and dtype; weights are float32 (float64 under a
    float64 policy).

    Args:
      synchronized: normalise by the batch of all replicas; costs an all-reduce a call.
    """

    def __init__(self, *, synchronized: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.synchronized = synchronized

    def build(self, input_shape):
        for name, initial, trainable in (
            ("gamma", "ones", True),
            ("beta", "zeros", True),
            ("moving_mean", "zeros", False),
            ("moving_variance", "ones", False),
        ):
            weight = self.add_weight(
                name=name,
                shape=(input_shape[-1],),
                initializer=initial,
                trainable=trainable,
                **compat.NO_AUTOCAST,
            )
            setattr(self, name, weight)
        self.built = True

    def call(self, inputs, training=False):
        gamma, beta, moving_mean, moving_variance = (
            tf.convert_to_tensor(weight)
            for weight in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        fused = inputs.dtype != tf.float64
        if not training:
            if fused:
                return _fused(inputs, gamma, beta, moving_mean, moving_variance, training=False)[0]
            return _plain(inputs, gamma, beta, moving_mean, moving_variance)

        replica = tf.distribute.get_replica_context()
        replicas = replica.num_replicas_in_sync if replica else 1
        if self.synchronized and replicas > 1:
            mean, variance = _global_moments(inputs, moving_mean, replica)
            unbiased = _unbiased(variance, inputs, replicas)
            outputs = _plain(inputs, gamma, beta, mean, variance)
        elif fused:
            # 1.2x faster on CPU than the plain form; gives the unbiased variance; and its gradient has
            # no sum of three terms, whose order would vary (training/determinism.py).
            empty = tf.zeros([0], gamma.dtype)
            outputs, mean, unbiased = _fused(inputs, gamma, beta, empty, empty, training=True)
        else:
            mean, variance = _moments(inputs, gamma.dtype)
            unbiased = _unbiased(variance, inputs, 1)
            outputs = _plain(inputs, gamma, beta, mean, variance)

        mean, unbiased = tf.stop_gradient(mean), tf.stop_gradient(unbiased)
        self.moving_mean.assign(MOMENTUM * moving_mean + (1 - MOMENTUM) * mean)
        self.moving_variance.assign(MOMENTUM * moving_variance + (1 - MOMENTUM) * unbiased)
        return outputs

    def compute_output_shape(self, input_shape):
        return input_shape


def average_statistics(statistics: Sequence) -> None:
    """Gives every replica the mean over replicas of moving statistics; without replicas, nothing.

    Moving is affine in what a batch adds, so the mean of the copies is what moving them by the mean
    of the batches would have given: one all-reduce a step instead of one a call.

    Args:
      statistics: weights [C] of one dtype, `moving_mean` and `moving_variance` of any layers. Called
        in replica context, outside loops.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return
    unpack(replica.all_reduce(tf.distribute.ReduceOp.MEAN, pack(statistics)), statistics)


def pack(statistics: Sequence) -> tf.Tensor:
    """All values of weights [C] of one dtype, one after the other."""
    return tf.concat([tf.convert_to_tensor(weight) for weight in statistics], axis=0)


def unpack(packed: tf.Tensor, statistics: Sequence) -> None:
    """Assigns what `pack` gave of the same weights."""
    sizes = [weight.shape[0] for weight in statistics]
    for weight, value in zip(statistics, tf.split(packed, sizes), strict=True):
        weight.assign(value)


def _global_moments(inputs, shift, replica):
    """Mean and biased variance [C] over all replicas' batches, which are of equal size.

    Squares are taken about `shift` [C], equal on all replicas and near the mean, since E x^2 - m^2
    about 0 loses the digits that they have in common.
    """
    mean, variance = _moments(inputs, shift.dtype)
    sums = tf.stack([mean - shift, variance + tf.square(mean - shift)])
    mean, square = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.MEAN, sums))
    return mean + shift, tf.maximum(square - tf.square(mean), 0)


def _moments(inputs, dtype):
    return tf.nn.moments(tf.cast(inputs, dtype), list(range(inputs.shape.rank - 1)))


def _unbiased(variance, inputs, replicas):
    count = tf.cast(replicas * (tf.size(inputs) / tf.shape(inputs)[-1]), variance.dtype)
    # A single value has no unbiased variance: as in the fused kernel its own, 0, is kept.
    return variance * count / tf.maximum(count - 1, 1)


def _fused(inputs, gamma, beta, mean, variance, *, training):
    if inputs.shape.rank == 2:
        images = inputs[:, tf.newaxis, tf.newaxis]
        outputs, *moments = _fused(images, gamma, beta, mean, variance, training=training)
        return outputs[:, 0, 0], *moments
    outputs, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=EPSILON,
        is_training=training,
    )
    return outputs, batch_mean, batch_variance


def _plain(inputs, gamma, beta, mean, variance):
    scale = gamma * tf.math.rsqrt(variance + EPSILON)
    outputs = tf.cast(inputs, scale.dtype) * scale + (beta - mean * scale)
    return tf.cast(outputs, inputs.dtype)
