"""How does a step number become a batch in tf.data? One numpy function call, counted and repaired."""

import os
import threading
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf.errors import UserError

# Batches (in evaluation, videos) loaded at once: one decodes while the next waits for its bytes.
# The decoding threads are shared, so more would only take memory.
PARALLEL_LOADS = 2
PREFETCHED_LOADS = 2

# A few bad frames at the very start of a run are no proof that the fraction is exceeded.
_FEWEST_SAMPLES_TO_JUDGE = 1000


class SampleCount:
    """How many samples were read, and how many of them were unreadable. Thread-safe.

    Args:
      max_bad_fraction: share of unreadable samples above which `add` fails, in [0, 1].

    Attributes:
      num_samples, num_bad_samples: so far, prefetched ones included.
    """

    def __init__(self, max_bad_fraction: float):
        self._max_bad_fraction = max_bad_fraction
        self._lock = threading.Lock()
        self._named: set[str] = set()
        self.num_samples = self.num_bad_samples = 0

    def add(self, problems: Sequence[str | None]) -> None:
        """Adds a batch: for each sample None, or why it is unreadable; logs each reason once.

        Raises:
          UserError: too many are, or a whole batch is.
        """
        bad = [problem for problem in problems if problem]
        with self._lock:
            for problem in bad:
                if problem not in self._named:  # an epoch later it comes again
                    self._named.add(problem)
                    logging.warning("unreadable, another sample takes its place: %s", problem)
            self.num_samples += len(problems)
            self.num_bad_samples += len(bad)
            judged = max(self.num_samples, _FEWEST_SAMPLES_TO_JUDGE)
            too_many = self.num_bad_samples > self._max_bad_fraction * judged
            if bad and (too_many or len(bad) == len(problems)):
                raise UserError(
                    f"{self.num_bad_samples} of {self.num_samples} samples are unreadable, more "
                    f"than --max_bad_fraction={self._max_bad_fraction:g} allows or a whole batch; "
                    f"the last: {bad[-1]}; run make_tfrecords again, which makes damaged shards "
                    "anew, or raise the limit"
                )


def steps_dataset(
    load_step: Callable[[int], dict[str, np.ndarray]],
    spec: dict[str, tf.TensorSpec],
    *,
    start_step: int,
    num_steps: int,
) -> tf.data.Dataset:
    """Batches of the steps [start_step, start_step + num_steps), each `load_step(step)`.

    Iterate inside `user_errors()` to get a `UserError` for what the user can mend.

    Raises:
      UserError: the batches that are read ahead do not fit into this machine's memory.
    """
    _check_memory(spec)
    names = sorted(spec)

    def load_arrays(step):
        batch = load_step(int(step))
        return [batch[name] for name in names]

    def load(step):
        dtypes = [spec[name].dtype for name in names]
        tensors = tf.numpy_function(load_arrays, [step], dtypes)
        return {
            name: tf.ensure_shape(tensor, spec[name].shape)
            for name, tensor in zip(names, tensors, strict=True)
        }

    steps = tf.data.Dataset.range(start_step, start_step + num_steps)
    batches = steps.map(load, num_parallel_calls=PARALLEL_LOADS, deterministic=True)
    return batches.prefetch(PREFETCHED_LOADS).with_options(input_options())


def input_options() -> tf.data.Options:
    """Deterministic order, no second sharding, threads of its own."""
    options = tf.data.Options()
    options.deterministic = True
    # Each worker reads its own slice already.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # A load blocks its thread while the decoding threads work: in the shared pool (two threads on
    # two cores) that would hold up the training step itself.
    options.threading.private_threadpool_size = PARALLEL_LOADS + 1
    return options


def replace_bad_samples(batch: dict[str, np.ndarray], is_bad: np.ndarray) -> None:
    """Overwrites each bad sample with the next good one (cyclically), in every array."""
    good = np.flatnonzero(~is_bad)
    for sample in np.flatnonzero(is_bad):
        donor = good[np.searchsorted(good, sample) % len(good)]
        for array in batch.values():
            array[sample] = array[donor]


def _check_memory(spec: dict[str, tf.TensorSpec]) -> None:
    """Refuses what the system would end the process for, somewhere within the first batches."""
    batch = sum(entry.shape.num_elements() * entry.dtype.size for entry in spec.values())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if batch * (PARALLEL_LOADS + PREFETCHED_LOADS) > memory:
        largest = max(spec.values(), key=lambda entry: entry.shape.num_elements())
        height, width = largest.shape[-3:-1]
        raise UserError(
            f"not enough memory: a batch with frames of {height}x{width} px takes "
            f"{batch / 1e9:.0f} GB and several are read ahead; make shards with a smaller "
            "--short_side, or lower --batch_size"
        )
