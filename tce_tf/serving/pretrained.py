"""How do an encoder's weights get into a backbone that trains on? From all that `--encoder` names."""

import hashlib

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf import compat, errors
from tce_tf.modeling import resnet, torch_names
from tce_tf.serving import encoder_module, loader


def read_backbone(
    encoder: str, fallback: encoder_module.EncoderConfig
) -> tuple[encoder_module.EncoderConfig, dict[str, np.ndarray]]:
    """The settings of an encoder and its backbone's weights.

    Args:
      encoder: a SavedModel folder with or without its version, a workdir or a `.pth`.
      fallback: image size and resize mode of a `.pth`, which says neither.

    Returns:
      The config, and PyTorch key (`torch_names`) -> float32 array in Keras's layout.

    Raises:
      errors.UserError: nothing of the kind there.
    """
    saved_model = loader.find_saved_model(encoder)
    if saved_model:
        return _from_saved_model(saved_model)
    module = loader.load_encoder(encoder, fallback=fallback)
    backbone, _ = module.layers
    return module.config, {
        key: np.asarray(compat.tf_variable(weight))
        for key, weight in torch_names.backbone_weights(backbone).items()
    }


def digest(weights: dict[str, np.ndarray]) -> str:
    """SHA-256 of what `read_backbone` returned, hex: the same weights whatever file they lie in."""
    found = hashlib.sha256()
    for key in sorted(weights):
        found.update(key.encode() + np.ascontiguousarray(weights[key]).tobytes())
    return found.hexdigest()


def assign_backbone(
    backbone: resnet.ResNet,
    weights: dict[str, np.ndarray],
    *,
    input_mode: str,
    source: str,
) -> None:
    """Gives a built backbone weights, with the first convolution inflated where it must be.

    An RGB convolution becomes one of stacked differences by giving every channel the mean of its
    three (DESIGN section 2).

    Args:
      backbone: what is to be filled; under a strategy, call it in the scope.
      weights: as `read_backbone` returns them.
      input_mode: what the backbone sees.
      source: their name, for messages.

    Raises:
      errors.UserError: weights of another backbone or for another input.
    """
    named = torch_names.backbone_weights(backbone)
    weights = dict(weights)
    key = "backbone.conv1.weight"
    channels = resnet.INPUT_CHANNELS[input_mode]
    if key in weights and weights[key].shape[2] != channels:
        if input_mode == "rgb":
            raise errors.UserError(
                f"--encoder={source}: takes stack_of_differences: use "
                "--input_mode=stack_of_differences"
            )
        mean = weights[key].mean(axis=2, keepdims=True)
        weights[key] = np.repeat(mean, channels, axis=2)
        logging.info("first convolution inflated from 3 to %d channels by their mean", channels)
    shapes = {name: tuple(compat.tf_variable(weight).shape) for name, weight in named.items()}
    if shapes != {name: array.shape for name, array in weights.items()}:
        raise errors.UserError(
            f"--encoder={source}: its weights are not those of {backbone.backbone}"
        )
    for name, weight in named.items():
        compat.tf_variable(weight).assign(weights[name])


def _from_saved_model(path: str):
    config = loader.encoder_config(path)
    names = config and loader.export_settings(path)["variables"]
    if names is None:
        raise errors.UserError(f"{path} is a SavedModel, but none that export made")
    if not names:
        raise errors.UserError(f"{path} was exported with --frozen: it has no weights to train")
    try:
        variables = tf.saved_model.load(path).variables
    except (OSError, ValueError, tf.errors.OpError) as error:
        first = str(error).splitlines()[0]
        raise errors.UserError(f"{path} cannot be loaded: {first}") from error
    if len(names) != len(variables):
        raise errors.UserError(
            f"{path} is damaged: {len(variables)} variables, {len(names)} names; export it again"
        )
    found = dict(zip(names, variables, strict=True))
    return config, {
        name: value.numpy() for name, value in found.items() if name.startswith("backbone.")
    }
