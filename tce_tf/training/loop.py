"""What happens at each step of a run, and in which order? Step, log line, checkpoint, stop.

The order is what makes a resumed run equal to one never stopped: a step's line is on the disk before
the checkpoint of that step, so the line is either there or written again.
"""

import signal
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from tce_tf import errors
from tce_tf.training import (
    checkpoints,
    health,
    interruption,
    metrics_log,
    pictures,
    strategies,
    workers,
)

# A loss that is not finite is noticed after so many steps at the latest.
_STEPS_BETWEEN_CHECKS = 100


class Loop:
    """The steps of one process's run.

    Args:
      config: `config.TrainConfig` or `config.FinetuneConfig`.
      strategy: the devices.
      model: compiled, built and restored.
      store: where checkpoints go.
      inputs: the batches of one process, as `pipeline.TrainingInput`.
      make_input: (worker, number of workers) -> the batches of that worker.
      images_per_step: through the network, for the rate.
      describe: step -> what else is logged of it.
      monitor: step -> figures of the model as it is now; called every `eval_every` steps and at the
        end.
      illustrations: the pictures of a run, for TensorBoard.
    """

    def __init__(
        self,
        config,
        strategy,
        model,
        store: checkpoints.Checkpoints,
        *,
        inputs,
        make_input: Callable[[int, int], Any],
        images_per_step: int,
        describe: Callable[[int], dict[str, float]],
        monitor: Callable[[int], dict[str, float]] | None = None,
        illustrations: pictures.Pictures | None = None,
    ):
        self._config, self._strategy, self._model = config, strategy, model
        self._store, self._inputs, self._make_input = store, inputs, make_input
        self._images_per_step, self._describe = images_per_step, describe
        self._monitor, self._illustrations = monitor, illustrations
        self._is_chief = workers.is_chief(strategy)
        self._watch = health.Watch(model)
        _, jit_network = strategies.jit_settings(config.jit, strategy.num_replicas_in_sync)
        if config.jit == "on" and not jit_network:
            logging.warning(
                "--jit=on: of several replicas views and loss are compiled, the network not"
            )
        # Without AutoGraph, here and below: what depends on a tensor is written as TensorFlow's own
        # `cond` and `while_loop`, and rewriting all the Python of a step delays the first by seconds.
        self._network_step = tf.function(
            self._replicated_step, jit_compile=jit_network or None, autograph=False
        )
        self._train_step = tf.function(self._watched_step, autograph=False)

    def _replicated_step(self, batch):
        logs = self._strategy.run(self._model.train_step, args=(batch,))
        # The model has reduced them already: every replica holds the same.
        return {k: self._strategy.experimental_local_results(v)[0] for k, v in logs.items()}

    def _watched_step(self, batch):
        logs = self._network_step(batch)
        self._watch.note(logs["loss"])
        return logs

    def _batches(self, start_step, last_step):
        replicas = self._strategy.num_replicas_in_sync

        def per_replica(context):
            inputs = self._inputs
            if context.num_input_pipelines > 1:  # each worker reads its slice of every batch
                inputs = self._make_input(context.input_pipeline_id, context.num_input_pipelines)
            dataset = inputs.dataset(start_step=start_step, num_steps=last_step - start_step)
            if replicas == 1:
                return dataset
            return dataset.rebatch(context.get_per_replica_batch_size(self._config.batch_size))

        return iter(self._strategy.distribute_datasets_from_function(per_replica))

    def run(self, start_step: int, last_step: int) -> dict[str, float]:
        """Runs the steps from start_step to last_step; returns the last logged scalars.

        Raises:
          errors.UserError: a loss or weights that are not finite, or unreadable data.
          errors.Stopped: a signal came; the checkpoint of the last step is written.
        """
        log = None  # the chief's part, as are checkpoints and figures of the monitor
        if self._is_chief:
            log = metrics_log.MetricsLog(
                self._config.workdir, start_step=start_step, total_steps=last_step
            )
        try:
            with interruption.stop_request() as request:
                return self._run(log, request, start_step, last_step)
        finally:
            if log is not None:
                log.close()

    def _run(self, log, request, start_step, last_step):
        config = self._config
        every = config.checkpoint_every or self._inputs.steps_per_epoch
        batches = self._batches(start_step, last_step)
        window = _Window(start_step)
        values: dict[str, float] = {}
        for step in range(start_step + 1, last_step + 1):
            with window:  # counts the wait
                batch = next(batches)
            logs = self._train_step(batch)
            ends = step == last_step
            signal_number = workers.stop_signal(self._strategy, request.number, step)
            stops = signal_number is not None and not ends
            saves = self._is_chief and (step % every == 0 or ends or stops)
            monitors = (self._is_chief and self._monitor is not None) and (
                ends or config.eval_every and step % config.eval_every == 0
            )
            shows = self._is_chief and (step % config.log_every == 0 or ends or monitors)
            if saves or shows or step % _STEPS_BETWEEN_CHECKS == 0:
                self._watch.check_loss(step, self._store.latest())
            if saves:
                self._watch.check_weights(step, self._store.latest())
            if log is not None and self._illustrations and self._illustrations.due(step):
                first = self._strategy.experimental_local_results
                batch = {name: first(value)[0] for name, value in batch.items()}
                for picture in self._illustrations.draw(step, batch):
                    log.draw(step, picture.name, picture.image, picture.text)
            if shows:
                values = self._values(step, logs, window)
                self._watch.warn(step, values)
            try:
                if monitors:
                    values |= self._monitor(step)
            finally:  # a monitor that fails must not cost the steps before it
                if shows:
                    log.write(step, values)
                    log.show(step, values)
                if saves:
                    log.sync()
                    self._store.save(step)
                    logging.debug("checkpoint at step %d", step)
            if shows or saves:
                window.start(step)
            if stops:
                workers.wait_for_all(self._strategy)
                raise errors.Stopped(
                    f"stopped by {signal.Signals(signal_number).name} at step {step}, saved in "
                    f"{self._store.latest()}: the same command goes on from there",
                    signal_number,
                )
        return values

    def _values(self, step, logs, window) -> dict[str, float]:
        return (
            {name: float(value) for name, value in logs.items()}
            | {
                "epoch": (step - 1) // self._inputs.steps_per_epoch,
                "frames_per_second": self._images_per_step * (step - window.step) / window.elapsed,
                "input_wait_fraction": window.wait / window.elapsed,
            }
            | self._describe(step)
        )


class _Window:
    """The time since the last pause for a log line or a checkpoint, and what of it was waiting."""

    def __init__(self, step: int):
        self.start(step)

    def start(self, step: int) -> None:
        self.step, self.wait, self._since = step, 0.0, time.monotonic()
        self._before = self._since

    def __enter__(self):
        self._before = time.monotonic()

    def __exit__(self, *exception):
        self.wait += time.monotonic() - self._before

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._since
