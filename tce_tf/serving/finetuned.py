"""Which classifier did a fine-tuning run make? Built from its workdir's settings and a checkpoint."""

import json

from tce_tf import errors
from tce_tf.data import storage
from tce_tf.modeling import checkpoint_files, classifier
from tce_tf.serving import classifier_module, loader


def build_classifier(
    settings: classifier_module.ClassifierConfig,
) -> classifier_module.ClassifierModule:
    """What scores videos and is exported, in float32 whatever the precision of the training.

    Its weights are fresh: those of a checkpoint, or of a model in training, are to be brought to it.
    """
    model = classifier.ActionClassifier(
        settings.backbone, num_classes=len(settings.class_names), input_mode=settings.input_mode
    )
    model.initialize(settings.image_size)
    return classifier_module.make_classifier(settings, model.backbone, model.classifier)


def load_classifier(
    workdir: str, checkpoint: str | None = None
) -> classifier_module.ClassifierModule:
    """The classifier of a fine-tuning run.

    Args:
      workdir: of `finetune`.
      checkpoint: one of the workdir's, `best/ckpt-<step>` as well; its newest by default.

    Raises:
      errors.UserError: not such a workdir, or a missing or damaged checkpoint.
    """
    module = build_classifier(_settings(workdir))
    backbone, head = module.layers
    path = checkpoint or checkpoint_files.newest(workdir)
    loader.restore_layers(path, backbone=backbone, classifier=head)
    return module


def is_finetuning(workdir: str) -> bool:
    """Whether a folder with a `config.json` is that of a fine-tuning run.

    Raises:
      errors.UserError: the file is damaged.
    """
    return "num_segments" in _config(workdir, "settings")


def _settings(workdir: str) -> classifier_module.ClassifierConfig:
    found = _config(workdir, "resolved")
    try:
        names, segments = tuple(map(str, found["class_names"])), int(found["segments"])
        return classifier_module.ClassifierConfig(
            **loader.encoder_fields(found), class_names=names, segments=segments
        )
    except (ValueError, KeyError, TypeError) as error:
        raise errors.UserError(f"{workdir}/config.json is damaged: {error!r}") from error


def _config(workdir: str, part: str) -> dict:
    path = storage.join(workdir, "config.json")
    try:
        return dict(json.loads(storage.read_bytes(path))[part])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.UserError(f"{path} is damaged: {error!r}") from error
