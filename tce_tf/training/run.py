"""How does a training run go, from settings to checkpoints and export?"""

import dataclasses
import math
import os
import time

import tensorflow as tf
from absl import logging

from tce_tf import config as config_lib
from tce_tf import errors
from tce_tf.data import pipeline, shard_reader
from tce_tf.evaluation import video_features
from tce_tf.serving import export
from tce_tf.training import (
    checkpoints,
    metrics_log,
    provenance,
    setup,
    strategies,
)


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the step it stopped at, its last logged scalars, the export if any."""

    step: int
    metrics: dict[str, float]
    export_path: str | None


def train(config: config_lib.TrainConfig) -> TrainResult:
    """Trains, or resumes, the run that the settings describe.

    Raises:
      errors.UserError: bad data, settings that contradict the data or the run in the workdir, too
        many unreadable frames, or a loss that is no longer finite.
    """
    for name in ("data", "workdir"):
        config_lib.check(bool(getattr(config, name)), name, getattr(config, name), "given")
    folders = config_lib.split_paths(config.data)
    if len({os.path.realpath(folder) for folder in folders}) < len(folders):
        raise errors.FlagError(f"--data={config.data}: names a folder twice")
    reader = shard_reader.ShardReader(folders)
    strategy = strategies.make_strategy(config.strategy)
    strategies.check_batch_size(config.batch_size, strategy)
    _check_outputs(config)
    inputs = setup.make_input(config, reader)
    total_steps = inputs.steps_per_epoch * config.epochs
    last_step = min(config.steps or total_steps, total_steps)
    with strategy.scope():
        model = setup.build_model(config, reader, total_steps=total_steps)
        schedule = setup.make_schedule(config, inputs.steps_per_epoch)
        optimizer = setup.make_optimizer(config, schedule, model)
    # Not before all settings have passed: a refused start must not claim the workdir.
    provenance.save_config(config.workdir, config, folders)
    store = checkpoints.Checkpoints(config.workdir, model, optimizer, keep=config.keep)
    start_step = store.restore() or 0
    if start_step:
        logging.info("resumed from step %d", start_step)
    logging.info(
        "%d videos, %d steps an epoch, %d steps in all, %d replica(s), %s",
        len(reader.names), inputs.steps_per_epoch, last_step, strategy.num_replicas_in_sync,
        config.backbone,
    )  # fmt: skip

    metrics: dict[str, float] = {}
    if start_step < last_step:
        loop = _Loop(config, strategy, model, schedule, inputs, store)
        with pipeline.user_errors():
            metrics = loop.run(reader, start_step, last_step)
    export_path = None
    if config.export_dir:
        export_path = export.export_encoder(setup.encoder_of(model, config), config.export_dir)
        logging.info("exported to %s", export_path)
    return TrainResult(last_step, metrics, export_path)


def _check_outputs(config: config_lib.TrainConfig) -> None:
    """Finds out now, not after the training, what would fail at its end.

    Raises:
      errors.UserError: a folder that cannot be made, or data that the kNN monitor cannot score.
    """
    for name in ("workdir", "export_dir"):
        path = getattr(config, name)
        try:
            if path:
                os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise errors.UserError(
                f"--{name}={path}: cannot make this folder: {error.strerror}"
            ) from error
    if config.eval_train:
        video_features.check_labelled(*_monitor_readers(config))


def _monitor_readers(config: config_lib.TrainConfig) -> tuple[shard_reader.ShardReader, ...]:
    return tuple(
        shard_reader.ShardReader(config_lib.split_paths(paths))
        for paths in (config.eval_train, config.eval_test)
    )


class _Loop:
    """The steps of one process's run."""

    def __init__(self, config, strategy, model, schedule, inputs, store):
        self._config, self._strategy, self._model = config, strategy, model
        self._schedule, self._inputs, self._store = schedule, inputs, store
        _, jit_network = strategies.jit_settings(config.jit)
        # Under several replicas only the inner functions can be compiled (DESIGN section 9).
        jit_network = jit_network and strategy.num_replicas_in_sync == 1
        self._train_step = tf.function(self._replicated_step, jit_compile=jit_network or None)

    def _replicated_step(self, batch):
        logs = self._strategy.run(self._model.train_step, args=(batch,))
        # The model has reduced them already: every replica holds the same.
        return {k: self._strategy.experimental_local_results(v)[0] for k, v in logs.items()}

    def _batches(self, reader, start_step, last_step):
        replicas = self._strategy.num_replicas_in_sync

        def per_replica(context):
            inputs = self._inputs
            if context.num_input_pipelines > 1:  # each worker reads its slice of every batch
                inputs = setup.make_input(
                    self._config, reader, context.input_pipeline_id, context.num_input_pipelines
                )
            dataset = inputs.dataset(start_step=start_step, num_steps=last_step - start_step)
            if replicas == 1:
                return dataset
            return dataset.rebatch(context.get_per_replica_batch_size(self._config.batch_size))

        return iter(self._strategy.distribute_datasets_from_function(per_replica))

    def run(self, reader, start_step: int, last_step: int) -> dict[str, float]:
        """Runs the steps from start_step to last_step; returns the last logged scalars."""
        config = self._config
        every = config.checkpoint_every or self._inputs.steps_per_epoch
        images = config.batch_size * (3 if config.rotation_weight else 2)
        log = metrics_log.MetricsLog(config.workdir, start_step=start_step, total_steps=last_step)
        batches = self._batches(reader, start_step, last_step)
        wait, since, since_step = 0.0, time.monotonic(), start_step
        values: dict[str, float] = {}
        try:
            for step in range(start_step + 1, last_step + 1):
                before = time.monotonic()
                batch = next(batches)
                wait += time.monotonic() - before
                logs = self._train_step(batch)
                saves = step % every == 0 or step == last_step
                shows = step % config.log_every == 0 or step == last_step
                if not (saves or shows):
                    continue
                values = {name: float(value) for name, value in logs.items()}
                self._check_finite(step, values)
                elapsed = time.monotonic() - since
                values |= {
                    "epoch": (step - 1) // self._inputs.steps_per_epoch,
                    "mining_threshold": float(self._model.mining_threshold(step - 1)),
                    "learning_rate": float(self._schedule.exact(step - 1)),
                    "frames_per_second": images * (step - since_step) / elapsed,
                    "input_wait_fraction": wait / elapsed,
                }
                wait, since, since_step = 0.0, time.monotonic(), step
                if saves:  # before the monitor, which may fail
                    self._store.save(step)
                    logging.debug("checkpoint at step %d", step)
                ends = step == last_step
                if config.eval_train and (
                    ends or config.eval_every and step % config.eval_every == 0
                ):
                    values |= self._monitor()
                if shows:
                    log.write(step, values)
                    log.show(step, values)
                since = time.monotonic()
        finally:
            log.close()
        return values

    def _check_finite(self, step, values) -> None:
        if not math.isfinite(values["loss"]):
            last = checkpoints.latest(self._config.workdir) or "none"
            raise errors.UserError(
                f"the loss is {values['loss']} at step {step} (last good checkpoint: {last}): "
                "lower --learning_rate or use --precision=float32, and start again in another --workdir"
            )

    def _monitor(self) -> dict[str, float]:
        """kNN accuracy of the encoder as it is now."""
        train_reader, test_reader = _monitor_readers(self._config)
        scores = video_features.evaluate_knn(
            setup.encoder_of(self._model, self._config), train=train_reader, test=test_reader
        )
        return {name: scores[name] for name in ("knn.top1", "knn.top5")}
