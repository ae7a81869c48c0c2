"""How does a training run go, from settings to checkpoints and export?"""

import dataclasses
import functools
import os

from absl import logging

from tce_tf import config as config_lib
from tce_tf import errors
from tce_tf.data import pipeline, sampling, shard_reader
from tce_tf.evaluation import protocols
from tce_tf.serving import export
from tce_tf.training import (
    checkpoints,
    determinism,
    loop,
    metrics_log,
    pictures,
    projector,
    provenance,
    setup,
    strategies,
    workers,
)

# Coherence from 64 videos and runs of 9 frames costs a fraction of what kNN does.
_MONITORED = protocols.Settings(
    protocols=("knn", "coherence"), coherence_frames=9, coherence_videos=64
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
      errors.Stopped: SIGTERM or SIGINT came; the same call resumes.
    """
    if config.strategy == "multi_worker":
        strategies.make_strategy(config.strategy)  # before anything starts TensorFlow's devices
    with determinism.deterministic(config.deterministic):
        return _train(config)


def _train(config: config_lib.TrainConfig) -> TrainResult:
    for name in ("data", "workdir"):
        config_lib.check(bool(getattr(config, name)), name, getattr(config, name), "given")
    sampling.parse_frame_gap(config.frame_gap)  # a bad one is refused before anything is read
    folders = config_lib.split_paths(config.data)
    if len({os.path.realpath(folder) for folder in folders}) < len(folders):
        raise errors.FlagError(f"--data={config.data}: names a folder twice")
    reader = shard_reader.ShardReader(folders)
    strategy = strategies.make_strategy(config.strategy)
    setup.make_folders(config)
    with (
        setup.sole_writer(config.workdir, "train", strategy),
        workers.peer_errors(strategy, config.workdir),
    ):
        return _run(config, folders, reader, strategy)


def _run(config, folders, reader, strategy) -> TrainResult:
    chief = workers.is_chief(strategy)
    strategies.check_batch_size(config.batch_size, strategy, config.accumulate_steps)
    readers = _monitored_videos(config)
    inputs = setup.make_input(config, reader)
    total_steps = inputs.steps_per_epoch * config.epochs
    last_step = min(config.steps or total_steps, total_steps)
    with strategy.scope():
        model = setup.build_model(config, reader, total_steps=total_steps)
        schedule = setup.make_schedule(config, inputs.steps_per_epoch)
        optimizer = setup.make_optimizer(config, schedule, model)
    store = checkpoints.Checkpoints(config.workdir, model, optimizer, keep=config.keep)
    if chief:
        provenance.check_config(config.workdir, config, folders)
    start_step = setup.resume(store, config, last_step)
    workers.check_agreement(strategy, config, folders, start_step)
    # Not before all has passed: a refused start must not claim the workdir.
    if chief:
        provenance.save_config(config.workdir, config, folders)
    logging.info(
        "%d videos, %d steps an epoch, %d steps in all, %d replica(s), %s",
        len(reader.names), inputs.steps_per_epoch, last_step, strategy.num_replicas_in_sync,
        config.backbone,
    )  # fmt: skip

    encoder = setup.EncoderCopy(model, config)
    metrics: dict[str, float] = {}
    if start_step < last_step:
        steps = loop.Loop(
            config,
            strategy,
            model,
            store,
            inputs=inputs,
            make_input=functools.partial(setup.make_input, config, reader),
            images_per_step=config.batch_size * (3 if config.rotation_weight else 2),
            describe=lambda step: {
                "mining_threshold": float(model.objective.mining_threshold(step - 1)),
                "learning_rate": float(schedule.exact(step - 1)),
            },
            monitor=(lambda step: _monitor(encoder(), config, *readers)) if readers else None,
            illustrations=pictures.Pictures(
                model,
                encoder,
                reader,
                image_size=config.image_size,
                steps_per_epoch=inputs.steps_per_epoch,
                first_step=start_step + 1,
            ),
        )
        with pipeline.user_errors():
            metrics = steps.run(start_step, last_step)
    elif readers and chief:
        metrics = _complete(config, last_step, lambda: _monitor(encoder(), config, *readers))
    export_path = None
    if config.export_dir and chief:
        export_path = export.export_encoder(encoder(), config.export_dir)
        logging.info("exported to %s", export_path)
    workers.wait_for_all(strategy)
    return TrainResult(last_step, metrics, export_path)


def _complete(config, step: int, monitor) -> dict[str, float]:
    """The last step's scalars, with those of the monitor if they could not be had at the time."""
    path = os.path.join(config.workdir, "metrics.jsonl")
    if not any(line["step"] == step and "knn.top1" in line for line in metrics_log.read(path)):
        metrics_log.add(path, step, monitor())
    return metrics_log.read(path)[-1]


def _monitored_videos(config: config_lib.TrainConfig) -> tuple[shard_reader.ShardReader, ...]:
    """The readers of `--eval_train` and `--eval_test`, if given.

    Raises:
      errors.UserError: data that the monitor could not score later.
    """
    if not config.eval_train:
        return ()
    readers = tuple(
        shard_reader.ShardReader(config_lib.split_paths(paths))
        for paths in (config.eval_train, config.eval_test)
    )
    protocols.check_labelled(*readers)
    return readers


def _monitor(encoder, config, train_reader, test_reader) -> dict[str, float]:
    """kNN accuracy and coherence of the encoder as it is now."""
    found = protocols.evaluate(encoder, train=train_reader, test=test_reader, settings=_MONITORED)
    projector.write(os.path.join(config.workdir, "tensorboard"), found.test_vectors, test_reader)
    return {name: x for name, x in found.scores.items() if isinstance(x, float)}
