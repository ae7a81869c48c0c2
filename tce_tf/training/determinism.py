"""How does a run repeat bit for bit? Its sums of floats keep their order.

Found on CPUs, with threads or without: the one sum whose order varied between runs was `AddN` of
three or more tensors. It starts with whichever input's buffer it may overwrite at that moment, and
float addition is not associative. With few ops in flight the order is nearly always the same; after
some 90 steps TensorFlow takes most ops for cheap, schedules them otherwise, and runs part. The model
is therefore written so that no gradient is a sum of three (a test reads its graphs), and here the
graph optimizer is told not to merge such additions into one `AddN` again. Convolutions, matrix
products and reductions repeat for a given number of threads (tests/training/test_resume.py).
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_REWRITES = "arithmetic_optimization"


def is_on(setting: str) -> bool:
    """What `--deterministic` (auto, on, off) means here: auto is on where there is no GPU."""
    return setting == "on" or (setting == "auto" and not tf.config.list_logical_devices("GPU"))


@contextlib.contextmanager
def deterministic(setting: str) -> Iterator[None]:
    """Runs its body so that it repeats bit for bit on one device, if `--deterministic` asks for it.

    On GPUs TensorFlow's own switch is needed as well; that one stays on for the process.

    Args:
      setting: of `--deterministic`.
    """
    if not is_on(setting):
        yield
        return
    if tf.config.list_logical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    before = tf.config.optimizer.get_experimental_options().get(_REWRITES, True)
    tf.config.optimizer.set_experimental_options({_REWRITES: False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_REWRITES: before})
