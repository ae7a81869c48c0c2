"""Which weights and inputs stand behind the golden numbers? Rebuilt here with numpy alone.

Every array is drawn from a legacy `RandomState` seeded by the CRC of its name, so that it can be
made again anywhere, in any order. Names are PyTorch state-dict keys, layouts PyTorch's.
"""

import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "data" / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def generator(name: str, seed: int = 0) -> np.random.RandomState:
    """The random stream of a name; the golden files fix this legacy generator."""
    return np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)  # noqa: NPY002


def parameter(key: str, shape, seed: int = 0) -> np.ndarray:
    """One state-dict entry, float32."""
    rng = generator(key, seed)
    if key.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        value = 0.1 * rng.standard_normal(shape) + key.endswith("weight")
    else:
        value = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    return value.astype(np.float32)


def images(name: str, batch: int, size: int, seed: int = 0) -> np.ndarray:
    """Normalised images float32 [batch, size, size, 3]: 8-pixel blocks with a little noise."""
    rng = generator(name, seed)
    blocks = rng.standard_normal((batch, 3, size // 8, size // 8))
    smooth = np.kron(blocks, np.ones((8, 8)))
    nchw = (smooth + 0.1 * rng.standard_normal(smooth.shape)).astype(np.float32)
    return nchw.transpose(0, 2, 3, 1)


def unit_rows(name: str, rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Rows of unit norm, float32 [rows, width]."""
    x = generator(name, seed).standard_normal((rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
