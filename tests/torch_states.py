"""What do the published PyTorch modules save? Their state dicts as numpy, typed from torchvision.

Independent of the package, so that a wrong name in it cannot hide. Values are the golden recipe's.
"""

import golden_recipe
import numpy as np

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


def linear(path, inputs, outputs):
    return {f"{path}.weight": (outputs, inputs), f"{path}.bias": (outputs,)}


def norm(path, width):
    named = {
        f"{path}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")
    }
    return named | {f"{path}.num_batches_tracked": ()}


def resnet_shapes(backbone, channels=3):
    """Key -> shape of a torchvision ResNet without its fc."""
    expansion = 4 if backbone in ("resnet50", "resnet101") else 1
    shapes = {"conv1.weight": (64, channels, 7, 7)} | norm("bn1", 64)
    incoming = 64
    for stage, depth in enumerate(BLOCKS[backbone], start=1):
        width = 64 * 2 ** (stage - 1)
        for i in range(depth):
            path = f"layer{stage}.{i}"
            if expansion == 1:
                plan = [(incoming, width, 3), (width, width, 3)]
            else:
                plan = [(incoming, width, 1), (width, width, 3), (width, 4 * width, 1)]
            for part, (inputs, outputs, size) in enumerate(plan, start=1):
                shapes[f"{path}.conv{part}.weight"] = (outputs, inputs, size, size)
                shapes |= norm(f"{path}.bn{part}", outputs)
            outputs = width * expansion
            if incoming != outputs or (stage > 1 and i == 0):
                shapes[f"{path}.downsample.0.weight"] = (outputs, incoming, 1, 1)
                shapes |= norm(f"{path}.downsample.1", outputs)
            incoming = outputs
    return shapes


def features_of(backbone):
    return 2048 if backbone in ("resnet50", "resnet101") else 512


def pretraining_shapes(backbone, width):
    inputs = features_of(backbone)
    return (
        {f"backbone.{key}": shape for key, shape in resnet_shapes(backbone).items()}
        | linear("fc_contrastive", inputs, width)
        | linear("fc_rotation_1", inputs, 200)
        | norm("bn_rotation_1", 200)
        | linear("fc_rotation_2", 200, 200)
        | norm("bn_rotation_2", 200)
        | linear("fc_rotation_3", 200, 4)
    )


def values(shapes, seed=0):
    """The golden recipe's arrays; counters are 7."""
    return {
        key: np.array(7) if shape == () else golden_recipe.parameter(key, shape, seed)
        for key, shape in shapes.items()
    }


def pretraining(backbone, width=128, seed=0):
    """`PreTrainNet`."""
    return values(pretraining_shapes(backbone, width), seed)


def finetuning(backbone, classes=11, seed=0):
    """`FineTuneNet`."""
    shapes = {f"backbone.{key}": shape for key, shape in resnet_shapes(backbone).items()}
    return values(shapes | linear("fc", features_of(backbone), classes), seed)


def torchvision(backbone, classes=1000, seed=0):
    """A torchvision ResNet that computes the golden features."""
    return {
        key.removeprefix("backbone."): a for key, a in finetuning(backbone, classes, seed).items()
    }


def first_version(backbone, classes=101, seed=0):
    """The first version's fine-tuned network: 15 channels, tiled so that it sees golden features.

    On five copies of an image its first convolution gives what the golden one gives.
    """
    state = torchvision(backbone, classes, seed)
    state["conv1_custom.weight"] = np.tile(state.pop("conv1.weight"), (1, 5, 1, 1)) / np.float32(5)
    for part in ("weight", "bias"):
        state[f"fc_custom.{part}"] = state.pop(f"fc.{part}")
    return state


def parallel(state):
    """As DataParallel names it."""
    return {f"module.{key}": array for key, array in state.items()}


def weights_only(state):
    """A state dict without its counters."""
    return {k: a for k, a in state.items() if not k.endswith("num_batches_tracked")}
