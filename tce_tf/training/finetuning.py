"""How does fine-tuning go, from settings to results and export?

A workdir as training's, with the same exact resume. Beside `checkpoints` it has `best`, the weights
that scored highest on the test videos, and at the end `results.json`.
"""

import dataclasses
import functools
import json
import os

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf import config as config_lib
from tce_tf.data import pipeline, segments, shard_reader, storage
from tce_tf.evaluation import classification, confusion, protocols, top_k
from tce_tf.modeling import checkpoint_files, classifier, resnet
from tce_tf.serving import classifier_module, encoder_module, export, finetuned, pretrained
from tce_tf.training import (
    checkpoints,
    determinism,
    loop,
    metrics_log,
    provenance,
    setup,
    strategies,
)


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a run leaves: the step it stopped at, the content of `results.json`, the export if any."""

    step: int
    results: dict
    export_path: str | None


def finetune(config: config_lib.FinetuneConfig) -> FinetuneResult:
    """Fine-tunes, or resumes, the run that the settings describe.

    Raises:
      errors.UserError: bad data, an encoder that does not fit, settings that contradict the run in
        the workdir, too many unreadable frames, or a loss that is no longer finite.
      errors.Stopped: SIGTERM or SIGINT came; the same call resumes.
    """
    with determinism.deterministic(config.deterministic):
        return _finetune(config)


def _finetune(config: config_lib.FinetuneConfig) -> FinetuneResult:
    for name in ("train", "test", "encoder", "workdir"):
        config_lib.check(bool(getattr(config, name)), name, getattr(config, name), "given")
    folders = [config_lib.split_paths(paths) for paths in (config.train, config.test)]
    train, test = map(shard_reader.ShardReader, folders)
    protocols.check_labelled(train, test)
    strategy = strategies.make_strategy(config.strategy)
    setup.make_folders(config)
    with setup.sole_writer(config.workdir, "finetune", strategy):
        return _run(config, folders, train, test, strategy)


def _run(config, folders, train, test, strategy) -> FinetuneResult:
    strategies.check_batch_size(config.batch_size, strategy)
    settings, weights = _starting_point(config, train.class_names)
    make_input = functools.partial(_make_input, config, settings, train)
    inputs = make_input()
    last_step = inputs.steps_per_epoch * config.epochs
    last_step = min(config.steps or last_step, last_step)
    with strategy.scope():
        model = build_model(config, settings)
        if weights is not None:
            pretrained.assign_backbone(
                model.backbone, weights, input_mode=config.input_mode, source=config.encoder
            )
        schedule = setup.make_schedule(config, inputs.steps_per_epoch)
        optimizer = setup.make_optimizer(config, schedule, model)
    store = checkpoints.Checkpoints(config.workdir, model, optimizer, keep=config.keep)
    described, resolved = (config.workdir, config, sum(folders, [])), dataclasses.asdict(settings)
    provenance.check_config(*described, resolved)
    start_step = setup.resume(store, config, last_step)
    if start_step:  # those the run began with: the encoder may have been trained on since
        begun = provenance.read_config(config.workdir)["resolved"]
        resolved["encoder_weights"] = begun.get("encoder_weights")
    else:
        resolved["encoder_weights"] = None if weights is None else pretrained.digest(weights)
    # Not before all has passed: a refused start must not claim the workdir.
    provenance.save_config(*described, resolved)
    logging.info(
        "%d training and %d test videos of %d classes, %d steps an epoch, %d steps in all, "
        "%d replica(s), %s from %s",
        len(train.names), len(test.names), len(train.class_names), inputs.steps_per_epoch,
        last_step, strategy.num_replicas_in_sync, settings.backbone, config.encoder,
    )  # fmt: skip

    monitor = _Monitor(config, settings, test, model, start_step)
    if start_step < last_step:
        steps = loop.Loop(
            config,
            strategy,
            model,
            store,
            inputs=inputs,
            make_input=make_input,
            images_per_step=config.batch_size * config.num_segments,
            describe=lambda step: {"learning_rate": float(schedule.exact(step - 1))},
            monitor=monitor,
        )
        with pipeline.user_errors():
            steps.run(start_step, last_step)
    elif not monitor.knows(last_step):  # scoring the last step failed the last time
        monitor(last_step)
    scores, logits = monitor.scores_at(last_step)
    results = _report(config, settings, test, scores, logits) | {
        "step": last_step,
        "encoder_weights": resolved["encoder_weights"],
        # Chosen by the test videos themselves, as in the published code: an upper bound.
        "best": monitor.best,
    }
    path = os.path.join(config.workdir, "results.json")
    storage.write_atomic(path, (json.dumps(results, indent=2) + "\n").encode())
    export_path = None
    if config.export_dir:
        export_path = export.export_encoder(monitor.module, config.export_dir)
        logging.info("exported to %s", export_path)
    return FinetuneResult(last_step, results, export_path)


def build_model(
    config: config_lib.FinetuneConfig, settings: classifier_module.ClassifierConfig
) -> classifier.ActionClassifier:
    """The classifier of a run with fresh weights. Call inside the strategy's scope."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    jit_views, _ = strategies.jit_settings(config.jit, replicas)
    views = tf.function(
        lambda batch: segments.segment_views(
            batch, image_size=settings.image_size, augment=config.augment
        ),
        jit_compile=jit_views,
        autograph=False,
    )
    model = classifier.ActionClassifier(
        settings.backbone,
        num_classes=len(settings.class_names),
        input_mode=config.input_mode,
        dropout=config.dropout,
        freeze_backbone=config.freeze_backbone,
        make_views=views,
        sync_batch_norm=config.sync_batch_norm,
        seed=config.seed,
        dtype=config.precision,
    )
    model.initialize(settings.image_size)
    return model


def _starting_point(config, class_names):
    """What the classifier is to be, and the weights its backbone starts from (None for scratch)."""
    scratch = config.encoder == "none"
    mode = "crop" if scratch and config.resize_mode == "auto" else config.resize_mode
    fallback = encoder_module.EncoderConfig(
        backbone=config.backbone, image_size=config.image_size or 224, resize_mode=mode
    )
    source, weights = fallback, None
    if not scratch:
        source, weights = pretrained.read_backbone(config.encoder, fallback)
    mode = source.resize_mode if config.resize_mode == "auto" else config.resize_mode
    settings = classifier_module.ClassifierConfig(
        backbone=source.backbone,
        embedding_width=source.embedding_width,
        image_size=config.image_size or source.image_size,
        resize_mode=mode,
        input_mode=config.input_mode,
        class_names=tuple(class_names),
        segments=config.num_segments,
        # In AdamW it is decoupled from the gradient, so no loss has it.
        weight_decay=config.weight_decay if config.optimizer == "sgd" else 0.0,
    )
    return settings, weights


def _make_input(config, settings, reader, worker_index=0, num_workers=1):
    stack = resnet.STACK_FRAMES if config.input_mode == "stack_of_differences" else 1
    return segments.SegmentInput(
        reader,
        batch_size=config.batch_size,
        num_segments=config.num_segments,
        seed=config.seed,
        stack_frames=stack,
        resize_mode=settings.resize_mode,
        augment=config.augment,
        max_bad_fraction=config.max_bad_fraction,
        worker_index=worker_index,
        num_workers=num_workers,
    )


class _Monitor:
    """Scores the test videos; keeps the weights with the highest top-1 in `best/ckpt-<step>`.

    Attributes:
      module: the classifier with the weights last scored.
      best: step, top-1, top-5 and checkpoint of the best so far; None before the first score.
    """

    def __init__(self, config, settings, test: shard_reader.ShardReader, model, start_step: int):
        self._config, self._test, self._model = config, test, model
        self.module = finetuned.build_classifier(settings)
        self._folder = os.path.join(config.workdir, "best")
        # The weights alone: it is for use, not for resuming.
        self._checkpoint = tf.train.Checkpoint(model=model)
        self._last: tuple = (None, None, None)
        self.best: dict | None = None
        self._known: set[int] = set()
        for line in metrics_log.read(os.path.join(config.workdir, "metrics.jsonl")):
            if "test.top1" in line and line["step"] <= start_step:
                self._known.add(line["step"])
                self._is_better(line["step"], line)

    def knows(self, step: int) -> bool:
        """Whether an earlier run logged the scores of a step."""
        return step in self._known

    def __call__(self, step: int) -> dict[str, float]:
        """The scores of the weights as they are now, which are saved if they are the best so far."""
        scores, _ = self.scores_at(step)
        if self._is_better(step, scores):
            prefix = checkpoint_files.prefix_of(self._folder, step)
            checkpoint_files.write(self._checkpoint, prefix)
            self._remove_others(step)
        return scores

    def _remove_others(self, step: int) -> None:
        """Removes what no run resumed from any checkpoint can name as its best: later and older ones."""
        resumable = checkpoint_files.steps(checkpoint_files.folder_of(self._config.workdir))
        found = checkpoint_files.steps(self._folder)
        known = [s for s in found if s <= min(resumable, default=0)]
        for other in found:
            if other > step or other < max(known, default=0):
                storage.remove(self._folder, f"ckpt-{other}.")

    def scores_at(self, step: int) -> tuple[dict[str, float], np.ndarray]:
        """Top-1 and top-5 in [0, 1] of the weights, which are those of this step, and the logits."""
        if self._last[0] != step:
            layers = (self._model.backbone, self._model.classifier)
            setup.copy_weights(layers, to=self.module.layers)
            logits = classification.video_logits(
                self.module,
                self._test,
                frames_per_video=self._config.test_frames,
            )
            ranking = np.argsort(-logits, axis=1, kind="stable")
            hits = top_k.hits(ranking, self._test.labels, (1, 5))
            scores = {f"test.top{k}": float(hit.mean()) for k, hit in hits.items()}
            self._last = (step, scores, logits)
        return self._last[1:]

    def _is_better(self, step, scores) -> bool:
        if self.best is not None and scores["test.top1"] <= self.best["top1"]:
            return False
        self.best = {
            "step": step,
            "top1": scores["test.top1"],
            "top5": scores["test.top5"],
            "checkpoint": checkpoint_files.prefix_of("best", step),
        }
        return True


def _report(config, settings, test, scores, logits) -> dict:
    """The content of `results.json`, but for the best step."""
    predicted = logits.argmax(axis=1)
    hits = {"top1": predicted == test.labels}
    by_class = {name: test.labels == i for i, name in enumerate(test.class_names)}
    counts = confusion.confusion_matrix(test.labels, predicted, len(test.class_names))
    return {
        "top1": scores["test.top1"],
        "top5": scores["test.top5"],
        "videos": len(test.names),
        "per_class": top_k.table(hits, by_class),
        "per_dataset": top_k.table(hits, protocols.datasets(test)),
        "confusion": counts.tolist(),
        "classifier": dataclasses.asdict(settings),
        "settings": dataclasses.asdict(config),
        "versions": provenance.versions(),
        "data": provenance.data_manifests(
            [*config_lib.split_paths(config.train), *config_lib.split_paths(config.test)]
        ),
    }
