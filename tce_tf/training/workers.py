"""How do several processes train one model? The cluster of `TF_CONFIG`, its chief, its failures.

    TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]},
                "task": {"type": "worker", "index": 0}}'

Every process runs the same command with an index of its own. The first worker is the chief: it
alone writes. A worker that dies is noticed by the others in their next all-reduce (its connection
is reset) or, if its host falls silent, by the heartbeats of TensorFlow's coordination service;
they end too, and all are started again.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tce_tf import config as config_lib
from tce_tf import errors
from tce_tf.training import provenance

# Where this worker finds things may differ from host to host, what is computed may not.
_OWN_PATHS = frozenset({"data", "workdir", "export_dir", "eval_train", "eval_test"})

# Whether to stop is asked for on the host, which waits for the devices then. Ten steps are a few
# seconds; schedulers give half a minute between SIGTERM and SIGKILL.
_STEPS_BETWEEN_QUESTIONS = 10


def check_cluster() -> None:
    """Checks what `TF_CONFIG` says, which TensorFlow takes on trust.

    Raises:
      errors.UserError: it is missing, malformed, or describes no cluster of workers.
    """
    text = os.environ.get("TF_CONFIG")
    wanted = (
        '--strategy=multi_worker: set TF_CONFIG to {"cluster": {"worker": ["host:port", ...]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise errors.UserError(f"{wanted}: it is not set")
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        others = set(content["cluster"]) - {"worker"}
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.UserError(f"{wanted}: it is {text!r} ({error!r})") from None
    if not isinstance(workers, list) or not all(isinstance(w, str) and ":" in w for w in workers):
        raise errors.UserError(f"{wanted}: its workers are {workers!r}, not host:port each")
    if others or kind != "worker":
        raise errors.UserError(f"{wanted}: only tasks of type worker take part, the first is chief")
    if not 0 <= index < len(workers):
        raise errors.UserError(f"{wanted}: its index is {index}, of {len(workers)} workers")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes checkpoints, logs and exports: the first worker, or the only one."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id


def check_agreement(
    strategy: tf.distribute.Strategy,
    config: config_lib.TrainConfig,
    folders: Sequence[str],
    start_step: int,
) -> None:
    """Compares settings, shards and first step with those of the other workers.

    Raises:
      errors.UserError: they differ, so that the workers would train apart without a sign of it.
    """
    if strategy.cluster_resolver is None:
        return
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OWN_PATHS}
    shards = [found["manifest"] for found in provenance.data_manifests(folders)]
    digest = hashlib.sha256(json.dumps([settings, shards]).encode()).digest()
    of_all = _gather(strategy, [start_step, *np.frombuffer(digest[:16], np.int64)])
    if len(set(of_all[:, 0])) > 1:
        raise errors.UserError(
            f"the workers would resume from steps {sorted(set(of_all[:, 0].tolist()))}: "
            f"--workdir={config.workdir} must be one folder that all of them see"
        )
    if len(np.unique(of_all, axis=0)) > 1:
        raise errors.UserError(
            "the workers differ in their flags or in the shards of --data: give all the same"
        )


def stop_signal(strategy: tf.distribute.Strategy, own: int | None, step: int) -> int | None:
    """The signal for which this process stops after a step, or None if it goes on.

    One process stops at its own. Workers must leave at the same step: the chief, which alone can
    save, would lose its step to the all-reduce that the first to leave is missing from. So any
    worker's signal stops all of them, at the next step at which they ask each other.

    Args:
      strategy: the devices.
      own: the signal that has come to this process.
      step: as all workers count it.
    """
    if strategy.cluster_resolver is None:
        return own
    if step % _STEPS_BETWEEN_QUESTIONS:
        return None
    return int(_gather(strategy, [own or 0]).max()) or None


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when every worker has come here.

    Without it the chief was seen to hang, for a minute or for good, when another worker had left before
    it; why was not found, and it did not happen again in four trials (BUILD_NOTES.md, "Known limits").
    """
    if strategy.cluster_resolver is not None:
        _gather(strategy, [0])


def _gather(strategy, numbers) -> np.ndarray:
    """Each replica's numbers, int64 [replicas, n]."""
    everywhere = _gather_function(strategy)(tf.constant([numbers], tf.int64))
    return strategy.experimental_local_results(everywhere)[0].numpy()


@functools.cache
def _gather_function(strategy):
    @tf.function
    def gather(numbers):
        def everyone(numbers):
            own = tf.identity(numbers)  # on the replica's device; arguments are on none
            return tf.distribute.get_replica_context().all_gather(own, axis=0)

        return strategy.run(everyone, args=(numbers,))

    return gather


@contextlib.contextmanager
def peer_errors(strategy: tf.distribute.Strategy, workdir: str) -> Iterator[None]:
    """Turns what TensorFlow raises when another worker is gone into one line.

    Raises:
      errors.UserError: another worker has ended, or cannot be reached.
    """
    try:
        yield
    except tf.errors.OpError as error:
        gone = isinstance(error, tf.errors.UnavailableError | tf.errors.DeadlineExceededError)
        if strategy.cluster_resolver is None or not (
            gone or "Collective ops is aborted" in error.message
        ):
            raise
        raise errors.UserError(
            f"another worker has ended or cannot be reached ({_first_cause(error.message)}): see "
            f"its log, then start all workers again to resume from the last checkpoint in {workdir}"
        ) from error


def _first_cause(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    causes = [line for line in lines if "aborted by" in line] or lines
    return causes[0].split("aborted by: ")[-1][:200]
