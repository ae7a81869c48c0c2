"""What is the learning rate at a step? The paper's steps, stated in epochs, resolved to steps."""

from collections.abc import Sequence

import keras
import tensorflow as tf


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A constant rate that is multiplied by `decay_factor` at each of the given steps.

    Args:
      base: the rate before the first drop.
      decay_steps: ascending step numbers; the drop holds from that step on.
      decay_factor: 0.1 as published.
    """

    def __init__(self, base: float, decay_steps: Sequence[int] = (), decay_factor: float = 0.1):
        self.base, self.decay_steps, self.decay_factor = base, tuple(decay_steps), decay_factor

    def exact(self, step) -> tf.Tensor:
        """The rate as a float64 scalar."""
        step = tf.cast(tf.convert_to_tensor(step), tf.int64)
        drops = tf.math.count_nonzero(step >= tf.constant(self.decay_steps, tf.int64))
        return self.base * tf.constant(self.decay_factor, tf.float64) ** tf.cast(drops, tf.float64)

    def __call__(self, step) -> tf.Tensor:
        """The rate as a float32 scalar, as Keras's optimizers want it."""
        return tf.cast(self.exact(step), tf.float32)

    def get_config(self):
        """The constructor's arguments."""
        return {
            "base": self.base,
            "decay_steps": self.decay_steps,
            "decay_factor": self.decay_factor,
        }


def decay_steps(decay_epochs: Sequence[int], steps_per_epoch: int) -> list[int]:
    """Steps from which the rate is lower: "after epoch 25" is step 25 x steps_per_epoch, from 0."""
    return [epoch * steps_per_epoch for epoch in decay_epochs]
