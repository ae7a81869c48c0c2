"""How does a published PyTorch file become layers with its weights?"""

import dataclasses

import numpy as np
import tensorflow as tf

from tce_tf import compat, errors
from tce_tf.modeling import heads, resnet, torch_names, torch_weights
from tce_tf.serving import encoder_module

_EMBEDDING_WIDTH = 128  # TCE config: MODEL.PRETRAINING.FC_DIM


@dataclasses.dataclass(frozen=True)
class Network:
    """The layers of an encoder with its heads; `classifier` is None where there is none."""

    config: encoder_module.EncoderConfig
    backbone: resnet.ResNet
    projection: heads.ProjectionHead
    rotation: heads.RotationHead
    classifier: heads.Linear | None

    @property
    def layers(self) -> dict:
        """Attribute of a model -> layer, as a checkpoint names them."""
        names = ("backbone", "projection", "rotation", "classifier")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def named_weights(self, *parts: str) -> dict:
        """PyTorch key -> weight of these layers."""
        functions = {
            "backbone": torch_names.backbone_weights,
            "projection": torch_names.projection_weights,
            "rotation": torch_names.rotation_weights,
            "classifier": torch_names.classifier_weights,
        }
        named = {}
        for part in parts:
            named |= functions[part](self.layers[part])
        return named


def build_network(config: encoder_module.EncoderConfig, num_classes: int = 0) -> Network:
    """A network with fresh weights of seed 0; without a classifier if there are 0 classes."""
    backbone, projection = encoder_module.build_layers(config)
    features = tf.zeros([1, backbone.feature_width])
    rotation = heads.RotationHead()
    rotation(features)
    classifier = None
    if num_classes:
        classifier = heads.Linear(num_classes, seed=resnet.layer_seed(0, "fc"), name="classifier")
        classifier(features)
    return Network(config, backbone, projection, rotation, classifier)


def read_network(
    contents: object,
    source: str,
    *,
    backbone: str = "",
    image_size: int = 224,
    resize_mode: str = "auto",
) -> tuple[Network, torch_weights.TorchWeights, tuple[str, ...]]:
    """The network in what a `.pth` held, with fresh heads where the file has none.

    Args:
      contents: what `torch_file.load` returned.
      source: the file's name, for messages.
      backbone: one of `resnet.STAGES`; inferred if empty.
      image_size: side of the images the encoder is meant for, in pixels.
      resize_mode: `crop`, `squash`, or `auto`: squash for TCE's models, which were trained on whole
        frames, crop for torchvision's.

    Returns:
      The network, what was recognised in the file, and the names of what lay beside the weights.

    Raises:
      errors.UserError: keys that are unknown, missing or of another shape, or a backbone that the
        keys contradict.
    """
    try:
        state, left = torch_weights.find_state_dict(contents)
        weights = torch_weights.recognise(state, backbone or None)
        return _fill(weights, image_size, resize_mode), weights, left
    except errors.UserError as error:
        raise errors.UserError(f"{source}: {error}") from error


def _fill(weights, image_size, resize_mode) -> Network:
    """The network that the file describes, with the file's weights where it has any."""
    if resize_mode == "auto":
        resize_mode = "crop" if weights.torchvision else "squash"
    config = encoder_module.EncoderConfig(
        backbone=weights.backbone,
        embedding_width=weights.width("fc_contrastive.weight", _EMBEDDING_WIDTH),
        image_size=image_size,
        resize_mode=resize_mode,
        input_mode=weights.input_mode,
    )
    num_classes = weights.width("fc.weight", 1) if "classifier" in weights.heads else 0
    network = build_network(config, num_classes)
    named = network.named_weights("backbone", *sorted(weights.heads))
    weights.check(dict(torch_names.torch_shapes(named)))
    for key, weight in named.items():
        array = torch_names.from_torch_layout(weights.arrays[key])
        compat.tf_variable(weight).assign(array.astype(np.float32))
    return network
