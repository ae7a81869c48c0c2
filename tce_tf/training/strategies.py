"""Over which devices is training spread? A `tf.distribute` strategy by name."""

import functools

import tensorflow as tf

from tce_tf import errors
from tce_tf.training import workers


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy for `--strategy`.

    Args:
      name: `auto` (mirrored over the GPUs when there are two or more, else one device),
        `one_device`, `mirrored` (all GPUs, or all logical CPU devices) or `multi_worker`
        (`TF_CONFIG` names the workers; a process can make it only before its first TensorFlow
        operation).

    Raises:
      errors.UserError: a `TF_CONFIG` that describes no cluster.
    """
    if name == "multi_worker":  # before anything else asks TensorFlow for devices
        return _multi_worker()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one_device"
    if name == "one_device":
        return tf.distribute.get_strategy()
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if name == "mirrored":
        return _mirrored(tuple(devices))
    raise ValueError(f"unknown strategy '{name}'")


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    # One for all runs of a process: two over the same CPU devices count their collective operations
    # from the same number, and the runtime aborts the second run's for other types or shapes.
    return _with_whole_batches(tf.distribute.MirroredStrategy(devices))


@functools.cache
def _multi_worker() -> tf.distribute.MultiWorkerMirroredStrategy:
    workers.check_cluster()
    return _with_whole_batches(tf.distribute.MultiWorkerMirroredStrategy())


def _with_whole_batches(strategy):
    # Every batch is whole. Otherwise each `next` would have the workers count, in an all-reduce of
    # its own, how many replicas have got one.
    strategy.extended.experimental_enable_get_next_as_optional = False
    return strategy


def check_batch_size(
    batch_size: int, strategy: tf.distribute.Strategy, accumulate_steps: int = 1
) -> None:
    """Refuses a global batch that replicas, and the parts each takes it in, cannot share evenly.

    Raises:
      errors.UserError: with the nearest sizes that can be.
    """
    replicas = strategy.num_replicas_in_sync
    shares = replicas * accumulate_steps
    if batch_size % shares:
        lower = batch_size - batch_size % shares
        nearest = f"{lower} or {lower + shares}" if lower else f"{shares}"
        parts = f" times --accumulate_steps={accumulate_steps}" if accumulate_steps > 1 else ""
        raise errors.UserError(
            f"--batch_size={batch_size} does not divide over {replicas} replicas{parts}: use {nearest}"
        )


def jit_settings(jit: str, num_replicas: int) -> tuple[bool, bool]:
    """What XLA compiles under `--jit`: (views and loss, the whole step with the network).

    Under several replicas only the inner functions can be compiled (DESIGN section 9).

    On a CPU XLA's convolutions cost 1.6-2.5x oneDNN's, so `auto` leaves the network out there
    (DESIGN section 7).
    """
    if jit == "auto":
        light, network = True, bool(tf.config.list_logical_devices("GPU"))
    else:
        light = network = jit == "on"
    return light, network and num_replicas == 1
