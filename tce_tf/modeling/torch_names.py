"""Which weight here is which entry of the published PyTorch state dict? Names and layouts."""

from collections.abc import Iterator

import numpy as np

from tce_tf import compat
from tce_tf.modeling import heads, resnet

# Our attribute -> PyTorch's, per layer kind.
_NORMALIZATION = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_LINEAR = {"kernel": "weight", "bias": "bias"}


def backbone_weights(backbone: resnet.ResNet, prefix: str = "backbone.") -> dict:
    """PyTorch key -> weight of a ResNet, torchvision's keys behind the prefix (no `fc`)."""
    named = {}

    def add(path, layer):
        if isinstance(layer, resnet.Convolution):
            named[f"{prefix}{path}.weight"] = layer.kernel
        else:
            for ours, theirs in _NORMALIZATION.items():
                named[f"{prefix}{path}.{theirs}"] = getattr(layer, ours)

    add("conv1", backbone.conv1)
    add("bn1", backbone.bn1)
    for stage, i, block in backbone.blocks():
        for part in range(1, block.depth + 1):
            add(f"layer{stage}.{i}.conv{part}", getattr(block, f"conv{part}"))
            add(f"layer{stage}.{i}.bn{part}", getattr(block, f"bn{part}"))
        if block.project:
            add(f"layer{stage}.{i}.downsample.0", block.downsample_conv)
            add(f"layer{stage}.{i}.downsample.1", block.downsample_bn)
    return named


def projection_weights(head: heads.ProjectionHead) -> dict:
    """PyTorch key -> weight of the projection head."""
    return _linear_weights("fc_contrastive", head.linear)


def rotation_weights(head: heads.RotationHead) -> dict:
    """PyTorch key -> weight of the rotation head."""
    named = {}
    for i in (1, 2, 3):
        named |= _linear_weights(f"fc_rotation_{i}", getattr(head, f"linear{i}"))
    for i in (1, 2):
        for ours, theirs in _NORMALIZATION.items():
            named[f"bn_rotation_{i}.{theirs}"] = getattr(getattr(head, f"bn{i}"), ours)
    return named


def classifier_weights(linear: heads.Linear) -> dict:
    """PyTorch key -> weight of the classifier of the published `FineTuneNet`."""
    return _linear_weights("fc", linear)


def _linear_weights(path: str, linear: heads.Linear) -> dict:
    return {f"{path}.{theirs}": getattr(linear, ours) for ours, theirs in _LINEAR.items()}


def pretraining_weights(model) -> dict:
    """PyTorch key -> weight for everything the published `PreTrainNet` holds."""
    return (
        backbone_weights(model.backbone)
        | projection_weights(model.projection)
        | rotation_weights(model.rotation)
    )


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """HWIO -> OIHW, [in, out] -> [out, in]; vectors as they are."""
    return array.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim])


def from_torch_layout(array: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO, [out, in] -> [in, out]; vectors as they are."""
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim])


def torch_shapes(named: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """PyTorch key and shape of each named weight."""
    for key, weight in named.items():
        shape = tuple(compat.tf_variable(weight).shape)
        order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(shape)]
        yield key, tuple(shape[i] for i in order)
