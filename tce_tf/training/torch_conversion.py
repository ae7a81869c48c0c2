"""How do published PyTorch weights become a workdir, and a workdir such weights?

A converted workdir holds what a training run's holds of the network: `config.json` and one
checkpoint with backbone, projection and rotation head, so that every command takes it for one; and
the classifier, if the file had one. There is no optimizer and no bank, so no run resumes from it.
"""

import dataclasses
import os
import shutil
import tempfile

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf import compat, errors
from tce_tf.data import remote
from tce_tf.modeling import checkpoint_files, torch_names
from tce_tf.serving import encoder_module, export, loader, torch_network
from tce_tf.training import checkpoints, provenance


def convert(
    contents: object,
    source: str,
    *,
    workdir: str = "",
    export_dir: str = "",
    backbone: str = "",
    image_size: int = 224,
    resize_mode: str = "auto",
) -> list[str]:
    """Makes a workdir and/or a SavedModel of what a `.pth` held; returns their paths.

    What is left out and what is not in the file is logged.

    Args:
      contents: what `torch_file.load` returned.
      source: the file's name, for messages and for `config.json`.
      workdir: a folder to make; it must be missing or empty.
      export_dir: folder of a SavedModel's versions.
      backbone: one of `resnet.STAGES`; inferred if empty.
      image_size: side of the images the encoder is meant for, in pixels.
      resize_mode: `crop`, `squash`, or `auto`: squash for TCE's models, which were trained on whole
        frames, crop for torchvision's.

    Raises:
      errors.UserError: keys that are unknown, missing or of another shape, a backbone that the
        keys contradict, or a workdir that is in use.
    """
    remote.require_local(workdir, "workdir", "a folder")
    if workdir and os.path.exists(workdir) and not _is_empty_folder(workdir):
        raise errors.UserError(f"--workdir={workdir} exists and is not empty: take another")
    network, weights, left = torch_network.read_network(
        contents, source, backbone=backbone, image_size=image_size, resize_mode=resize_mode
    )
    fresh = sorted({"projection", "rotation"} - weights.heads)
    _log(source, weights, network, fresh, left, kept=bool(workdir))

    made = []
    if workdir:
        conversion = {
            "checkpoint": os.path.abspath(source),
            "num_classes": network.classifier.units if network.classifier else 0,
            "fresh_heads": fresh,
        }
        _save_workdir(workdir, network, conversion)
        made.append(workdir)
    if export_dir:
        module = encoder_module.make_encoder(network.config, network.backbone, network.projection)
        made.append(export.export_encoder(module, export_dir))
    return made


def torch_state(workdir: str) -> dict[str, np.ndarray]:
    """The state dict of a workdir's newest checkpoint, as PyTorch's modules have it.

    Returns:
      key -> contiguous float32 array in PyTorch's layout, with a `num_batches_tracked` (int64, 0)
      for each batch norm: all of `PreTrainNet`; or, if the workdir was converted from a file with a
      classifier, what that file had: all of `FineTuneNet`.

    Raises:
      errors.UserError: not a workdir, or one without a checkpoint that fits it.
    """
    conversion = provenance.read_config(workdir)["conversion"] or {}
    config = loader.workdir_config(workdir)
    network = torch_network.build_network(config, conversion.get("num_classes", 0))
    path = checkpoint_files.newest(workdir)
    loader.restore_layers(path, **network.layers)
    fresh = set(conversion.get("fresh_heads", ()))
    # FineTuneNet has no place for heads that the file never had, PreTrainNet wants them.
    parts = [name for name in network.layers if not (network.classifier and name in fresh)]
    for head in fresh.intersection(parts):
        logging.warning("the %s head was not in the converted file: its weights are random", head)
    state = {}
    for key, weight in network.named_weights(*parts).items():
        array = torch_names.to_torch_layout(np.asarray(compat.tf_variable(weight)))
        state[key] = np.ascontiguousarray(array, np.float32)
        if key.endswith(".running_var"):
            # PyTorch wants it there; at a fixed momentum nothing depends on it.
            counter = key.replace("running_var", "num_batches_tracked")
            state[counter] = np.array(0, np.int64)
    logging.info("%s: %s, %d entries", path, config.backbone, len(state))
    return state


def _log(source, weights, network, fresh, left, *, kept) -> None:
    logging.info(
        "%s: %s on %s input, %d weights read",
        source, weights.backbone, network.config.input_mode, len(weights.arrays),
    )  # fmt: skip
    if weights.file_keys.get("fc_contrastive.weight", "").endswith("fc.weight"):
        logging.info(
            "its fc of %d is taken for the projection head of TCE's first version",
            network.config.embedding_width,
        )
    if network.classifier is not None:
        fate = "kept in the workdir" if kept else "left: an exported encoder has no place for it"
        logging.info("classifier of %d classes: %s", network.classifier.units, fate)
    if weights.counters:
        logging.info("left: %d batch counters (num_batches_tracked)", len(weights.counters))
    if left:
        logging.info("left, beside the weights: %s", ", ".join(left))
    for head in fresh:
        logging.warning("no %s head in the file: it gets random weights (seed 0)", head)


def _is_empty_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.listdir(path)


def _save_workdir(workdir: str, network: torch_network.Network, conversion: dict) -> None:
    """Written aside and renamed: a folder that is there is whole."""
    workdir = os.path.abspath(workdir)
    temporary = None
    try:
        os.makedirs(os.path.dirname(workdir), exist_ok=True)
        temporary = tempfile.mkdtemp(
            prefix=f".{os.path.basename(workdir)}-", dir=os.path.dirname(workdir)
        )
        checkpoints.Checkpoints(temporary, tf.train.Checkpoint(**network.layers)).save(0)
        settings = dataclasses.asdict(network.config)
        provenance.save_conversion(temporary, settings, conversion)
        os.chmod(temporary, 0o755)  # mkdtemp's folders are private
        os.rename(temporary, workdir)
    except (OSError, tf.errors.OpError) as error:
        raise errors.UserError(f"--workdir={workdir} cannot be written: {error}") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
