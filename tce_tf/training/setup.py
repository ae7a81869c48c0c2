"""What does a run consist of? Model, optimizer, schedule and inputs, made from its settings."""

import contextlib
import dataclasses

import keras
import tensorflow as tf
from absl import logging

from tce_tf import compat, errors
from tce_tf import config as config_lib
from tce_tf.data import augmentation, locks, pipeline, sampling, shard_reader, storage
from tce_tf.modeling import tce_model
from tce_tf.serving import encoder_module
from tce_tf.training import checkpoints, optimizers, schedules, strategies, workers


def make_input(
    config: config_lib.TrainConfig,
    reader: shard_reader.ShardReader,
    worker_index: int = 0,
    num_workers: int = 1,
) -> pipeline.TrainingInput:
    """The batches of one worker: its slice of every global batch.

    Raises:
      errors.UserError: the batch is larger than the data.
    """
    return pipeline.TrainingInput(
        reader,
        batch_size=config.batch_size,
        frame_gap=sampling.parse_frame_gap(config.frame_gap),
        seed=config.seed,
        resize_mode=config.resize_mode,
        min_crop=config.min_crop,
        own_crops=config.own_crops,
        max_bad_fraction=config.max_bad_fraction,
        worker_index=worker_index,
        num_workers=num_workers,
    )


def build_model(
    config: config_lib.TrainConfig, reader: shard_reader.ShardReader, *, total_steps: int
) -> tce_model.TCEModel:
    """The TCE model of a run, every weight made. Call inside the strategy's scope.

    Raises:
      errors.UserError: more negatives than the data can give.
    """
    gap = sampling.parse_frame_gap(config.frame_gap)
    live_rows = reader.rows[sampling.trainable_videos(reader.num_frames, gap)]
    if config.num_negatives > len(live_rows) - 1:
        raise errors.UserError(
            f"--num_negatives={config.num_negatives} needs at least {config.num_negatives + 1} "
            f"videos, {config.data} has {len(live_rows)}: use {len(live_rows) - 1} or fewer"
        )
    shared = {field.name for field in dataclasses.fields(tce_model.Objective)}
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k in shared}
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    jit_light, jit_network = strategies.jit_settings(config.jit, replicas)
    views = augmentation.compile_training_views(image_size=config.image_size, jit_compile=jit_light)
    model = tce_model.TCEModel(
        config.backbone,
        num_videos=reader.num_rows,
        embedding_width=config.embedding_width,
        objective=tce_model.Objective(**settings, total_steps=total_steps),
        live_rows=live_rows,
        make_views=views,
        sync_batch_norm=config.sync_batch_norm,
        accumulate_steps=config.accumulate_steps,
        jit=jit_light,
        jit_step=jit_network,
        seed=config.seed,
        dtype=config.precision,
    )
    model.initialize(config.image_size)
    return model


def make_schedule(config, steps_per_epoch: int) -> schedules.Schedule:
    """The learning rate of each step."""
    return schedules.Schedule(
        config.learning_rate,
        schedules.decay_steps(config.decay_epoch_list, steps_per_epoch),
        config.decay_factor,
        warmup_steps=config.warmup_epochs * steps_per_epoch,
        cosine_steps=config.epochs * steps_per_epoch if config.schedule == "cosine" else 0,
    )


def make_optimizer(
    config, schedule: schedules.Schedule, model: keras.Model
) -> keras.optimizers.Optimizer:
    """The optimizer of a run, built for the weights that the loss reaches and given to the model."""
    optimizer = optimizers.make_optimizer(
        config.optimizer, schedule, momentum=config.momentum, weight_decay=config.weight_decay
    )
    if config.precision == "mixed_float16":
        optimizer = compat.LossScaleOptimizer(optimizer)
    # Before a checkpoint is restored: there must be something to restore into.
    compat.build_optimizer(optimizer, model.optimized_weights)
    model.compile(optimizer=optimizer)
    return optimizer


class EncoderCopy:
    """The encoder inside a model in training, in float32 whatever the precision of the training.

    A copy: nothing of a strategy, of several replicas or of float16 convolutions is left in it. One for
    the whole run: of each that is made and traced, TensorFlow keeps some 27 MB for good.
    """

    def __init__(self, model: tce_model.TCEModel, config: config_lib.TrainConfig):
        self._model, self._config = model, config
        self._module: encoder_module.EncoderModule | None = None

    def __call__(self) -> encoder_module.EncoderModule:
        """The copy with the model's weights as they are now, which the next call changes."""
        if self._module is None:
            config = self._config
            settings = encoder_module.EncoderConfig(
                backbone=config.backbone,
                embedding_width=config.embedding_width,
                image_size=config.image_size,
                resize_mode=config.resize_mode,
                # In AdamW it is decoupled from the gradient, so no loss has it.
                weight_decay=config.weight_decay if config.optimizer == "sgd" else 0.0,
            )
            layers = encoder_module.build_layers(settings)
            self._module = encoder_module.make_encoder(settings, *layers)
        copy_weights((self._model.backbone, self._model.projection), to=self._module.layers)
        return self._module


def copy_weights(layers, *, to) -> None:
    """Copies the weights of built layers to those of others, whatever their precision."""
    for copy, trained in zip(to, layers, strict=True):
        for ours, theirs in zip(copy.weights, trained.weights, strict=True):
            compat.tf_variable(ours).assign(tf.convert_to_tensor(theirs))


def make_folders(config) -> None:
    """Makes `workdir` and `export_dir` now, so that nothing fails for their sake after the training.

    Raises:
      errors.FlagError: both are one: a workdir's config would be taken for the export's.
      errors.UserError: a folder that cannot be made.
    """
    config_lib.check(
        not config.export_dir or not storage.same_folder(config.workdir, config.export_dir),
        "export_dir",
        config.export_dir,
        "another folder than --workdir",
    )
    for name in ("workdir", "export_dir"):
        path = getattr(config, name)
        try:
            if path:
                storage.make_folder(path)
        except errors.UserError as error:
            raise errors.UserError(f"--{name}={path}: {error}") from error


def sole_writer(workdir: str, command: str, strategy: tf.distribute.Strategy):
    """A context in which no other run writes to the workdir; of workers, the chief's alone writes.

    Raises:
      errors.UserError: another run does.
    """
    if not workers.is_chief(strategy):
        return contextlib.nullcontext()
    file = storage.join(workdir, ".lock")
    return locks.exclusive(file, command=command, output=workdir, flag="workdir")


def resume(store: checkpoints.Checkpoints, config, last_step: int) -> int:
    """Restores the newest checkpoint, if there is one; returns the steps done.

    Raises:
      errors.UserError: the run is beyond its last step already.
    """
    start_step = store.restore() or 0
    if start_step:
        logging.info("resumed from step %d", start_step)
    if start_step > last_step:
        raise errors.UserError(
            f"--steps={config.steps}: the run in {config.workdir} is at step {start_step} already; "
            "raise it, or take another --workdir"
        )
    return start_step
