"""What differs between Keras 2.15 (Python 3.11) and Keras 3 (current)? Everything that does is here."""

import os
import warnings

import keras
import tensorflow as tf

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3

# `add_weight` keyword that keeps a weight in float32 under a mixed-precision policy.
NO_AUTOCAST = {"autocast": False} if KERAS_3 else {"experimental_autocast": False}


def tf_variable(weight) -> tf.Variable:
    """The `tf.Variable` behind what `add_weight` returned."""
    return weight.value if KERAS_3 else weight


def variable_name(weight) -> str:
    """A weight's own short name, without scopes and output number: `kernel`, `gamma`, ..."""
    return weight.name.split("/")[-1].split(":")[0]


def slot_index(optimizer: keras.optimizers.Optimizer, weight) -> int:
    """The position of a weight among those the optimizer was built for."""
    if KERAS_3:
        return optimizer._get_variable_index(weight)
    return optimizer._index_dict[optimizer._var_key(weight)]


def add_slot(optimizer: keras.optimizers.Optimizer, weight, name: str):
    """A zero variable of the weight's shape and dtype that belongs to the optimizer."""
    if KERAS_3:
        return optimizer.add_variable_from_reference(weight, name=name)
    return optimizer.add_variable_from_reference(model_variable=weight, variable_name=name)


def build_optimizer(optimizer: keras.optimizers.Optimizer, weights: list) -> None:
    """Makes the optimizer's variables for these weights."""
    if hasattr(optimizer, "build"):
        optimizer.build(weights)
    else:  # those of tensorflow-addons are of Keras's legacy class
        optimizer._create_all_weights(weights)


def make_lamb(schedule, weight_decay: float) -> keras.optimizers.Optimizer:
    """LAMB (You et al. 2020, algorithm 2), not yet built: of tensorflow-addons, or Keras 3's own.

    With Adam's direction u of a weight (betas 0.9 and 0.999, epsilon 1e-6 as in the paper), rate a and
    decay d, the weight moves by

        tensorflow-addons    a |w| / |u + d w| (u + d w)        as in the paper
        Keras 3              a |w| / |u| u + a d w              (of the w after the decay)

    where a ratio of norms, one of which is 0, is 1.

    Args:
      schedule: the learning rate of a step.
      weight_decay: d, of every weight.
    """
    options = {"learning_rate": schedule, "weight_decay": weight_decay, "epsilon": 1e-6}
    if KERAS_3:
        return keras.optimizers.Lamb(**options)
    os.environ.setdefault("TF_ADDONS_PY_OPS", "1")  # its custom operations are not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has come to its end is in BUILD_NOTES
        import tensorflow_addons
    return tensorflow_addons.optimizers.LAMB(**options)


LossScaleOptimizer = (
    keras.optimizers.LossScaleOptimizer if KERAS_3 else keras.mixed_precision.LossScaleOptimizer
)


def scaled_loss(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """The loss to differentiate: times the loss scale under mixed_float16, else as it is."""
    if hasattr(optimizer, "get_scaled_loss"):
        return optimizer.get_scaled_loss(loss)
    return optimizer.scale_loss(loss) if hasattr(optimizer, "scale_loss") else loss


def unscaled_gradients(optimizer: keras.optimizers.Optimizer, gradients: list) -> list:
    """The gradients of `scaled_loss` as `apply_gradients` wants them; Keras 3 divides there."""
    if hasattr(optimizer, "get_unscaled_gradients"):
        return optimizer.get_unscaled_gradients(gradients)
    return gradients


def apply_gradients(optimizer: keras.optimizers.Optimizer, gradients: list, weights: list) -> None:
    """Takes the optimizer's step and counts it, if it was skipped for an overflow as well.

    `iterations` is the number of the step for rate, mining threshold and draws. Keras 2.15 counts
    what its `LossScaleOptimizer` skips, Keras 3 does not.
    """
    step = tf.convert_to_tensor(optimizer.iterations)
    if KERAS_3 and isinstance(optimizer, LossScaleOptimizer):
        gradients = _overflow_on_all_replicas(gradients)
    optimizer.apply_gradients(zip(gradients, weights, strict=True))
    if KERAS_3 and isinstance(optimizer, LossScaleOptimizer):
        optimizer.iterations.assign(step + 1)


def _overflow_on_all_replicas(gradients: list) -> list:
    """Makes a replica's overflow one of every replica.

    Keras 3.15 asks the first replica alone whether its gradients are finite, before they are summed:
    what overflowed on another would go into all weights. (2.15 sums first.)
    """
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return gradients
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
    bad = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(~finite, tf.float32))
    first = tf.where(bad > 0, tf.constant(float("nan"), gradients[0].dtype), gradients[0])
    return [first, *gradients[1:]]
