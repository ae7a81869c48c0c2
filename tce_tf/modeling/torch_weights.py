"""What does a published PyTorch file hold? Its layout recognised and every key accounted for.

    keys                                          who saves them
    backbone.*, fc_contrastive, fc_rotation_*     TCE, pre-training (`PreTrainNet`)
    backbone.*, fc                                TCE, fine-tuning (`FineTuneNet`)
    conv1, ..., fc of 128                         TCE's first version, pre-training: fc projects
    conv1_custom, ..., fc_custom                  TCE's first version, fine-tuning on 15 channels
    conv1, ..., fc                                torchvision

Each may stand behind `module.` (DataParallel), and inside a checkpoint under `state_dict` or, in the
first version, `model`. Plain numpy: PyTorch is needed for reading a file only (`torch_file`).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from tce_tf import errors
from tce_tf.modeling import resnet

_NESTED_UNDER = ("state_dict", "model")
_FIRST_VERSION = {"conv1_custom": "conv1", "fc_custom": "fc"}
# make_tsne.py of the first version: --output_size
_FIRST_VERSION_WIDTH = 128
# Parts that a file may lack; each is there as a whole or not at all.
_HEADS = {
    "projection": ("fc_contrastive.",),
    "rotation": ("fc_rotation_", "bn_rotation_"),
    "classifier": ("fc.",),
}


@dataclasses.dataclass(frozen=True)
class TorchWeights:
    """A state dict under `PreTrainNet`'s and `FineTuneNet`'s names.

    Attributes:
      backbone: one of `resnet.STAGES`.
      arrays: key -> array in PyTorch's layout, whatever the file has: not yet checked.
      file_keys: key -> its name in the file.
      counters: the file's `num_batches_tracked` keys, which have no use here.
      torchvision: the names are torchvision's, without `backbone.`.
    """

    backbone: str
    arrays: dict[str, np.ndarray]
    file_keys: dict[str, str]
    counters: tuple[str, ...]
    torchvision: bool

    @property
    def heads(self) -> set[str]:
        """Which of `projection`, `rotation` and `classifier` the file has any part of."""
        return {
            head
            for head, starts in _HEADS.items()
            if any(k.startswith(starts) for k in self.arrays)
        }

    @property
    def input_mode(self) -> str:
        """One of `resnet.INPUT_CHANNELS`, by the channels of the first convolution.

        Raises:
          errors.UserError: another number of channels.
        """
        shape = np.shape(self.arrays.get("backbone.conv1.weight"))
        if len(shape) != 4:
            return "rgb"  # `check` reports a missing or odd kernel as it does any other
        for mode, channels in resnet.INPUT_CHANNELS.items():
            if shape[1] == channels:
                return mode
        known = " or ".join(f"{n} ({mode})" for mode, n in resnet.INPUT_CHANNELS.items())
        key = self.file_keys["backbone.conv1.weight"]
        raise errors.UserError(f"{key} {list(shape)} takes {shape[1]} channels, not {known}")

    def width(self, key: str, default: int) -> int:
        """The number of outputs of a linear layer, `default` where the file lacks it."""
        shape = np.shape(self.arrays.get(key))
        return shape[0] if shape and shape[0] else default

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Asserts that the file has exactly these keys, as finite floats of these shapes.

        Args:
          expected: key -> shape in PyTorch's layout.

        Raises:
          errors.UserError: one line that names the unknown and missing keys, or the misfits.
        """
        unknown = [self.file_keys[key] for key in self.arrays if key not in expected]
        missing = [self._in_file(key) for key in expected if key not in self.arrays]
        if unknown or missing:
            raise errors.UserError(
                "; ".join(
                    f"{len(keys)} {what} {'key' if len(keys) == 1 else 'keys'}: {shorten(keys)}"
                    for what, keys in (("unknown", unknown), ("missing", missing))
                    if keys
                )
            )
        misfits = []
        for key, shape in expected.items():
            array = self.arrays[key]
            if np.shape(array) != tuple(shape):
                misfits.append(
                    f"{self.file_keys[key]} has shape {list(np.shape(array))}, "
                    f"{self.backbone} wants {list(shape)}"
                )
            elif not np.issubdtype(np.asarray(array).dtype, np.floating):
                misfits.append(f"{self.file_keys[key]} is no float tensor")
            elif not np.isfinite(array).all():
                misfits.append(f"{self.file_keys[key]} holds NaN or infinity")
        if misfits:
            raise errors.UserError(shorten(misfits, 3, "; "))

    def _in_file(self, key: str) -> str:
        return key.removeprefix("backbone.") if self.torchvision else key


def find_state_dict(contents: object) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The state dict in what a `.pth` held, and the names of what lay beside it.

    Raises:
      errors.UserError: there is none.
    """
    left: tuple[str, ...] = ()
    if isinstance(contents, Mapping):
        for name in _NESTED_UNDER:
            if isinstance(contents.get(name), Mapping):
                left = tuple(str(key) for key in contents if key != name)
                contents = contents[name]
                break
    if not isinstance(contents, Mapping):
        raise errors.UserError(
            f"holds a {type(contents).__name__}, not a state dict: save model.state_dict() in PyTorch"
        )
    if not any(isinstance(value, np.ndarray) for value in contents.values()):
        names = shorten(map(str, contents)) or "nothing"
        raise errors.UserError(f"holds no state dict: there is {names}")
    return {str(key): value for key, value in contents.items()}, left


def recognise(state: Mapping[str, np.ndarray], backbone: str | None = None) -> TorchWeights:
    """Gives each key of a state dict its name of today and infers the backbone.

    Args:
      state: key -> array in PyTorch's layout.
      backbone: what the user says it is; None trusts the keys.

    Raises:
      errors.UserError: no ResNet of `resnet.STAGES`, another one than the user says, or a layout
        that mixes two.
    """
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    bare = [key.removeprefix(prefix) for key in state]
    torchvision = not any(key.startswith("backbone.") for key in bare)
    arrays, file_keys, counters = {}, {}, []
    for file_key, key in zip(state, bare, strict=True):
        if key.endswith(".num_batches_tracked"):
            # PyTorch counts batches and uses the count for a cumulative average only.
            if file_key.replace("num_batches_tracked", "running_var") in state:
                counters.append(file_key)
                continue
        elif torchvision:
            key = _from_torchvision(key, np.shape(state.get(f"{prefix}fc.weight")))
        if key in arrays:
            raise errors.UserError(f"{file_keys[key]} and {file_key} are the same weight")
        arrays[key], file_keys[key] = state[file_key], file_key
    found = infer_backbone(arrays)
    if found is None and backbone is None:
        raise errors.UserError(
            f"no {', '.join(resnet.STAGES)} in it ({_stages(arrays)}): its keys are {shorten(bare)}"
        )
    if backbone and found and backbone != found:
        hint = (
            " (the published code builds a ResNet-50 under the name resnet101)"
            if (backbone, found) == ("resnet101", "resnet50")
            else ""
        )
        raise errors.UserError(f"--backbone={backbone}, but its keys are those of {found}{hint}")
    return TorchWeights(backbone or found, arrays, file_keys, tuple(counters), torchvision)


def infer_backbone(keys: Iterable[str]) -> str | None:
    """The ResNet whose blocks these keys name (`backbone.layer1.0.conv1.weight`), or None."""
    found = _depths(keys)
    return next((name for name, stages in resnet.STAGES.items() if stages == found), None)


def shorten(names: Iterable[str], limit: int = 5, separator: str = ", ") -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = [f"{len(names) - limit} more"] if len(names) > limit else []
    return separator.join(names[:limit] + more)


def _from_torchvision(key: str, fc_shape: tuple[int, ...]) -> str:
    layer, _, rest = key.partition(".")
    if layer == "fc" and fc_shape[:1] == (_FIRST_VERSION_WIDTH,):
        return f"fc_contrastive.{rest}"
    layer = _FIRST_VERSION.get(layer, layer)
    starts = tuple(start for starts in _HEADS.values() for start in starts)
    return f"{layer}.{rest}" if f"{layer}.".startswith(starts) else f"backbone.{layer}.{rest}"


def _depths(keys: Iterable[str]) -> tuple[tuple[int, ...], bool]:
    """Blocks in each stage, and whether they are bottlenecks, as in `resnet.STAGES`."""
    keys = list(keys)
    blocks = [re.match(r"backbone\.layer([1-4])\.(\d+)\.", key) for key in keys]
    numbers = {(int(found[1]), int(found[2])) for found in blocks if found}
    depths = tuple(sum(stage == wanted for stage, _ in numbers) for wanted in (1, 2, 3, 4))
    return depths, any(re.match(r"backbone\.layer1\.0\.conv3\.", key) for key in keys)


def _stages(keys: Iterable[str]) -> str:
    depths, bottleneck = _depths(keys)
    kind = "bottlenecks" if bottleneck else "basic blocks"
    return f"stages of {', '.join(map(str, depths))} {kind}" if any(depths) else "no stages"
