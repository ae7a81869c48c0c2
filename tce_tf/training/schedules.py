"""What is the learning rate at a step? The paper's drops, or a cosine, after a warm-up."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises over a warm-up, then falls in steps or along a cosine.

        warm-up      base (step + 1) / warmup_steps
        in steps     base decay_factor^(number of decay_steps <= step)
        cosine       base (1 + cos(pi (step - warmup_steps) / (cosine_steps - warmup_steps))) / 2

    Args:
      base: the rate before the first drop.
      decay_steps: ascending step numbers; the drop holds from that step on.
      decay_factor: 0.1 as published.
      warmup_steps: length of a linear warm-up (Goyal et al. 2017), 0 as published.
      cosine_steps: the step at which a cosine (Loshchilov & Hutter 2017) reaches 0; 0 = in steps.
    """

    def __init__(
        self,
        base: float,
        decay_steps: Sequence[int] = (),
        decay_factor: float = 0.1,
        *,
        warmup_steps: int = 0,
        cosine_steps: int = 0,
    ):
        self.base, self.decay_steps, self.decay_factor = base, tuple(decay_steps), decay_factor
        self.warmup_steps, self.cosine_steps = warmup_steps, cosine_steps

    def exact(self, step) -> tf.Tensor:
        """The rate as a float64 scalar."""
        step = tf.cast(tf.convert_to_tensor(step), tf.int64)
        if self.cosine_steps:
            length = max(1, self.cosine_steps - self.warmup_steps)
            done = tf.cast(step - self.warmup_steps, tf.float64) / length
            rate = self.base * (1 + tf.cos(math.pi * tf.clip_by_value(done, 0.0, 1.0))) / 2
        else:
            drops = tf.math.count_nonzero(step >= tf.constant(self.decay_steps, tf.int64))
            factor = tf.constant(self.decay_factor, tf.float64)
            rate = self.base * factor ** tf.cast(drops, tf.float64)
        if self.warmup_steps:
            rising = self.base * tf.cast(step + 1, tf.float64) / self.warmup_steps
            rate = tf.where(step < self.warmup_steps, rising, rate)
        return rate

    def __call__(self, step) -> tf.Tensor:
        """The rate as a float32 scalar, as Keras's optimizers want it."""
        return tf.cast(self.exact(step), tf.float32)

    def get_config(self):
        """The constructor's arguments."""
        return {
            "base": self.base,
            "decay_steps": self.decay_steps,
            "decay_factor": self.decay_factor,
            "warmup_steps": self.warmup_steps,
            "cosine_steps": self.cosine_steps,
        }


def decay_steps(decay_epochs: Sequence[int], steps_per_epoch: int) -> list[int]:
    """Steps from which the rate is lower: "after epoch 25" is step 25 x steps_per_epoch, from 0."""
    return [epoch * steps_per_epoch for epoch in decay_epochs]
