"""How is a `.pth` read and written? The only file that needs PyTorch, which is optional.

Nothing that a file says is ever run: `torch.load(weights_only=True)` builds tensors and plain
containers, and what it refuses (the published pre-training checkpoints carry their yacs settings)
is replaced by a stand-in of ours that keeps no behaviour.
"""

import collections
import contextlib
import os
import pickle
import re
from collections.abc import Mapping

import numpy as np

from tce_tf import errors

# `safe_globals` takes stand-ins by name from here on.
_OLDEST_TORCH = (2, 6)


class _StandIn:
    """What an object of a class that PyTorch does not trust becomes: a plain dict, or nothing."""

    def __new__(cls, *arguments):
        # Settings are made without arguments and filled item by item; numpy's scalars with some.
        return object.__new__(cls) if arguments else collections.OrderedDict()

    def __setstate__(self, state):
        pass


def import_torch():
    """PyTorch.

    Raises:
      errors.UserError: it is missing, broken or too old; the line says what to install.
    """
    wanted = ".".join(map(str, _OLDEST_TORCH))
    install = f"pip install 'torch>={wanted}'"
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        raise errors.UserError(
            f"convert_torch needs PyTorch, which cannot be imported here ({error}): {install}"
        ) from error
    if torch.__version__ < _OLDEST_TORCH:
        raise errors.UserError(
            f"PyTorch {torch.__version__} is too old to read a .pth safely: {install}"
        )
    return torch


def load(path: str) -> object:
    """What a `.pth` holds, every tensor in its dicts as a numpy array (floats as float32).

    Args:
      path: written by `torch.save`, of any PyTorch since 0.4, on a GPU or not.

    Raises:
      errors.UserError: no such file, PyTorch is missing, or no file that it can read safely.
    """
    if not os.path.isfile(path):
        raise errors.UserError(f"--checkpoint={path}: no such file")
    torch = import_torch()
    refused: list[str] = []
    while True:
        try:
            with torch.serialization.safe_globals([(_StandIn, name) for name in refused]):
                contents = torch.load(path, map_location="cpu", weights_only=True)
            return _to_numpy(contents, torch)
        except Exception as error:  # a damaged file can raise nearly anything
            name = re.search(r"Unsupported global: GLOBAL (\S+) was not", str(error))
            if name is None or name[1] in refused:
                raise errors.UserError(
                    f"{path}: not a .pth that PyTorch can read safely ({_reason(error)})"
                ) from error
            refused.append(name[1])


def save(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict of contiguous tensors, under a temporary name first.

    Raises:
      errors.UserError: PyTorch is missing, the file exists, or it cannot be written.
    """
    if os.path.exists(path):
        raise errors.UserError(f"--checkpoint={path} exists and is not overwritten")
    torch = import_torch()
    # np.array, not ascontiguousarray: that one turns a scalar into a vector.
    tensors = {key: torch.from_numpy(np.array(a, order="C")) for key, a in arrays.items()}
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        torch.save(tensors, f"{path}.tmp")
        os.replace(f"{path}.tmp", path)
    except (OSError, RuntimeError) as error:  # PyTorch's own writer raises RuntimeError
        first = str(error).splitlines()[0]
        raise errors.UserError(f"--checkpoint={path} cannot be written: {first}") from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or could not even be begun
            os.remove(f"{path}.tmp")


def _to_numpy(value, torch):
    if isinstance(value, torch.Tensor):
        # bfloat16 has no numpy form; halves are exact in float32.
        value = value.detach()
        return (value.float() if value.is_floating_point() else value).numpy()
    if isinstance(value, dict):
        return {key: _to_numpy(item, torch) for key, item in value.items()}
    return value


def _reason(error: Exception) -> str:
    """The line of PyTorch's long message that says what is wrong."""
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"WeightsUnpickler error:\s*([^\n]+)", str(error))
        if found:
            return found[1][:200]
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
