"""How are weights updated? SGD as PyTorch defines it, AdamW for short runs, LAMB for large batches.

Keras's own SGD differs in two ways that change the published numbers: its `weight_decay` is
decoupled from gradient and momentum (losses 3e-3 off after three steps), and its velocity carries
the learning rate of past steps, so that a drop of the rate takes effect late.
"""

import keras
import tensorflow as tf

from tce_tf import compat
from tce_tf.training import schedules


class SGD(keras.optimizers.Optimizer):
    """Momentum SGD with weight decay coupled to it, on biases and batch norm too.

        g <- g + weight_decay w
        buffer <- momentum buffer + g
        w <- w - learning_rate buffer

    Args:
      schedule: the learning rate of a step, evaluated in float64.
      momentum: 0.9 as published.
      coupled_weight_decay: 1e-4 as published. (Keras's own `weight_decay` is another thing.)
    """

    def __init__(
        self,
        schedule: schedules.Schedule,
        momentum: float = 0.9,
        coupled_weight_decay: float = 0.0,
        name: str = "sgd",
        **kwargs,
    ):
        if compat.KERAS_3:
            super().__init__(learning_rate=schedule, name=name, **kwargs)
        else:
            super().__init__(name=name, jit_compile=False, **kwargs)
            self._learning_rate = self._build_learning_rate(schedule)
        self.schedule = schedule
        self.momentum = momentum
        self.coupled_weight_decay = coupled_weight_decay

    def build(self, variables):
        if getattr(self, "buffers", None):
            return
        super().build(variables)
        self.buffers = [compat.add_slot(self, v, "momentum") for v in variables]

    def update_step(self, gradient, variable, learning_rate=None):
        # Keras hands over a float32 rate; the schedule's own value keeps a float64 run exact.
        rate = tf.cast(self.schedule.exact(self.iterations), variable.dtype)
        buffer = self.buffers[compat.slot_index(self, variable)]
        decayed = gradient + self.coupled_weight_decay * tf.convert_to_tensor(variable)
        buffer.assign(self.momentum * tf.convert_to_tensor(buffer) + decayed)
        variable.assign(tf.convert_to_tensor(variable) - rate * tf.convert_to_tensor(buffer))

    def get_config(self):
        config = super().get_config()
        config.pop("learning_rate", None)
        return config | {
            "schedule": self.schedule,
            "momentum": self.momentum,
            "coupled_weight_decay": self.coupled_weight_decay,
        }


def make_optimizer(
    name: str, schedule: schedules.Schedule, *, momentum: float, weight_decay: float
) -> keras.optimizers.Optimizer:
    """The optimizer that `--optimizer` names, not yet built.

    Args:
      name: `sgd`, as published; `adamw` (Loshchilov & Hutter 2019, betas 0.9 and 0.999), whose
        steps do not depend on the size of the loss: NCE sums over K negatives; or `lamb`, see
        `compat.make_lamb`, whose steps are in proportion to each weight's norm besides.
      schedule: the learning rate of a step.
      momentum: of SGD; the others have none.
      weight_decay: added to the gradient by SGD; times the rate off the weight by AdamW; see
        `compat.make_lamb` for LAMB.

    Raises:
      ValueError: another name.
    """
    if name == "sgd":
        return SGD(schedule, momentum=momentum, coupled_weight_decay=weight_decay)
    if name == "adamw":
        jit = {} if compat.KERAS_3 else {"jit_compile": False}
        return keras.optimizers.AdamW(schedule, weight_decay=weight_decay, **jit)
    if name == "lamb":
        return compat.make_lamb(schedule, weight_decay)
    raise ValueError(f"unknown optimizer '{name}': choose sgd, adamw or lamb")
