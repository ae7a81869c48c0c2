"""How is an encoder named on a command line? A SavedModel, a workdir, a `.pth`, or `none`."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf import config as config_lib
from tce_tf import errors
from tce_tf.data import storage
from tce_tf.modeling import checkpoint_files, resnet, torch_file
from tce_tf.serving import encoder_module, export, torch_network


def build_encoder(
    config: encoder_module.EncoderConfig, *, seed: int = 0
) -> encoder_module.EncoderModule:
    """An encoder with fresh weights, as training starts with."""
    return encoder_module.make_encoder(config, *encoder_module.build_layers(config, seed=seed))


def load_encoder(
    encoder: str,
    *,
    fallback: encoder_module.EncoderConfig | None = None,
    checkpoint: str | None = None,
    seed: int = 0,
):
    """The encoder that a user names.

    Args:
      encoder: a SavedModel folder with or without its version (the highest is taken), a training
        workdir (its newest checkpoint), a PyTorch file (`.pth`), or `none` for fresh weights.
      fallback: what `none` builds; image size and resize mode of a `.pth`. A resize mode `auto` is
        what TCE's or torchvision's weights were trained with, and `crop` for `none`.
      checkpoint: another checkpoint of the workdir.
      seed: of the fresh weights.

    Returns:
      An object with the functions of `EncoderModule`: `frames`, `clip`, `image_bytes`, and the call;
      its `image_shape`, `variables` and `config` (None for a SavedModel that holds no config).

    Raises:
      errors.UserError: nothing of the kind there.
    """
    if encoder == "none":
        chosen = fallback or encoder_module.EncoderConfig()
        if chosen.resize_mode == "auto":
            chosen = dataclasses.replace(chosen, resize_mode="crop")
        return build_encoder(chosen, seed=seed)
    saved_model = find_saved_model(encoder)
    if saved_model:
        try:
            loaded = tf.saved_model.load(saved_model)
        except (OSError, ValueError, tf.errors.OpError) as error:
            first = str(error).splitlines()[0]
            raise errors.UserError(f"{saved_model} cannot be loaded: {first}") from error
        if hasattr(loaded, "class_names"):
            raise errors.UserError(f"--encoder={encoder}: is a classifier, not an encoder")
        if not all(hasattr(loaded, name) for name in ("frames", "clip", "image_bytes")):
            raise errors.UserError(f"{saved_model} is a SavedModel, but none that export made")
        if not loaded.variables:
            raise errors.UserError(
                f"--encoder={encoder}: was exported with --frozen, for servers alone: name the "
                "workdir or another export"
            )
        # What `EncoderModule` says of itself; a SavedModel keeps functions and variables only.
        frames = loaded.signatures["frames"].structured_input_signature[1]["frames"]
        loaded.image_shape = tuple(frames.shape[1:])
        loaded.config = encoder_config(saved_model)
        return loaded
    if storage.exists(storage.join(encoder, "config.json")):
        return _from_workdir(encoder, checkpoint)
    if os.path.isfile(encoder):
        network = read_torch(encoder, fallback or encoder_module.EncoderConfig())
        return encoder_module.make_encoder(network.config, network.backbone, network.projection)
    raise errors.UserError(
        f"--encoder={encoder}: neither a SavedModel folder, nor a training workdir, nor a .pth file, "
        "nor 'none'"
    )


def read_torch(path: str, fallback: encoder_module.EncoderConfig) -> torch_network.Network:
    """The network in a PyTorch file; what it lacks is fresh and warned of.

    Args:
      path: the file.
      fallback: its image size and resize mode are taken, since a `.pth` says neither.

    Raises:
      errors.UserError: PyTorch is missing, or the file holds no ResNet that is known.
    """
    network, weights, _ = torch_network.read_network(
        torch_file.load(path),
        path,
        image_size=fallback.image_size,
        resize_mode=fallback.resize_mode,
    )
    if "projection" not in weights.heads:
        logging.warning("%s has no projection head: embeddings are of random weights", path)
    return network


def find_saved_model(path: str) -> str | None:
    """The SavedModel in a folder or in its highest complete version; None where there is none."""
    if storage.exists(storage.join(path, export.SAVED_MODEL)):
        return path
    for version in sorted(export.versions(path), reverse=True):
        if storage.exists(storage.join(path, f"{version}/{export.SAVED_MODEL}")):
            return storage.join(path, str(version))
    return None


def encoder_config(encoder: str) -> encoder_module.EncoderConfig | None:
    """The config of an exported encoder or a workdir; None for a SavedModel of others."""
    saved_model = find_saved_model(encoder)
    settings = export_settings(saved_model) if saved_model else None
    if settings is not None:
        return encoder_module.EncoderConfig(**encoder_fields(settings))
    path = storage.join(encoder, "config.json")
    if saved_model is None and storage.exists(path):
        # A training run has no input mode (it takes single frames), a converted file no decay.
        settings = {"input_mode": "rgb", "weight_decay": 0.0}
        settings |= json.loads(storage.read_bytes(path))["settings"]
        if "num_segments" in settings:
            raise errors.UserError(
                f"--encoder={encoder}: the workdir of a fine-tuned classifier, not of an encoder"
            )
        if settings.get("optimizer", "sgd") != "sgd":
            settings["weight_decay"] = 0.0  # decoupled from the gradient, so no loss has it
        return encoder_module.EncoderConfig(**encoder_fields(settings))
    return None


def export_settings(saved_model: str) -> dict | None:
    """What an export says of itself: the config's fields and its `variables` by name; None if nothing.

    Raises:
      errors.UserError: the file is damaged.
    """
    path = storage.join(saved_model, export.CONFIG_ASSET)
    if not storage.exists(path):
        return None
    try:
        # Older exports do not say their weight decay.
        settings = {"weight_decay": 0.0, "variables": None} | json.loads(storage.read_bytes(path))
        encoder_fields(settings)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.UserError(f"{path} is damaged ({error!r}); export it again") from error
    return settings


def encoder_fields(settings: dict) -> dict:
    """The fields of an `EncoderConfig`, fit to build layers from.

    Raises:
      KeyError, TypeError, ValueError: one is missing, or is what no run or export has.
    """
    found = {name: settings[name] for name in encoder_module.EncoderConfig.__dataclass_fields__}
    largest = {"image_size": config_lib.MAX_IMAGE_SIZE, "embedding_width": 2**16}
    is_sound = (
        found["backbone"] in config_lib.BACKBONES
        and found["resize_mode"] in ("crop", "squash")
        and found["input_mode"] in resnet.INPUT_CHANNELS
        and all(type(found[n]) is int and 0 < found[n] <= most for n, most in largest.items())
        and 0 <= found["weight_decay"] < float("inf")
    )
    if not is_sound:
        raise ValueError(f"no encoder has {found}")
    return found


def weights_digest(encoder) -> str:
    """SHA-256 of an encoder's weights, in the order of its `variables`: hex."""
    digest = hashlib.sha256()
    for variable in encoder.variables:
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def restore_layers(path: str, **layers) -> None:
    """Reads layers of a model from a checkpoint that may hold more (bank, optimizer).

    Args:
      path: the checkpoint's prefix.
      layers: built layers, by their attribute in the model; all must be in the checkpoint.

    Raises:
      errors.UserError: missing or damaged file, or one of another model.
    """
    parts = tf.train.Checkpoint(**layers)
    try:
        status = tf.train.Checkpoint(model=parts).read(path)
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError, IndexError, tf.errors.OpError) as error:
        first = str(error).strip().splitlines()[0]
        raise errors.UserError(f"checkpoint {path} cannot be read: {first[:200]}") from error


def workdir_config(workdir: str) -> encoder_module.EncoderConfig:
    """`encoder_config` of a folder with a `config.json`.

    Raises:
      errors.UserError: the file is damaged.
    """
    try:
        config = encoder_config(workdir)
        resnet.INPUT_CHANNELS[config.input_mode]
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.UserError(f"{workdir}/config.json is damaged: {error!r}") from error
    return config


def _from_workdir(workdir: str, checkpoint: str | None) -> encoder_module.EncoderModule:
    config = workdir_config(workdir)
    backbone, projection = encoder_module.build_layers(config)
    path = checkpoint or checkpoint_files.newest(workdir)
    restore_layers(path, backbone=backbone, projection=projection)
    return encoder_module.make_encoder(config, backbone, projection)
