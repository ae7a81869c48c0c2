"""What does a collection of embedded footage hold, and how is it read back?

Small ones are an `.npz`, large ones TFRecord shards with a JSON beside them:

    all.npz              features [n, F], embeddings [n, D], names [n], timestamps [n] (microseconds);
                         manifest: the JSON as text
    all-00000.tfrecord   a tf.train.Example a row: `features` float [F], `embeddings` float [D],
                         `name` bytes, `timestamp` int64 (microseconds)
    all.json             the manifest, named all.tfrecord where a collection is asked for

The manifest says which encoder made the rows, where each video was found (`source`, relative to
`root`), and which videos could not be read.

    found = collection.open_collection("all.tfrecord")
    for block in found.blocks(): block["embeddings"], block["names"], ...
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tce_tf import errors
from tce_tf.data import storage

FORMAT_VERSION = 1
ARRAYS = ("features", "embeddings", "names", "timestamps")
MANIFEST = "manifest"  # its array in an .npz
# Keys of an Example.
FEATURES, EMBEDDINGS, NAME, TIMESTAMP = "features", "embeddings", "name", "timestamp"

_SHARD = re.compile(r"-[0-9]{5}\.tfrecord$")
_BLOCK_ROWS = 4096
_MAX_WIDTH = 2**20  # of a row: room is made for it before the row is read
_TOP_FIELDS = {
    "complete": bool,
    "encoder": str,
    "encoder_weights": str,
    "pool": str,
    "root": str,
    "feature_width": int,
    "embedding_width": int,
    "rows": int,
    "rejected": list,
    "shards": list,
}
_SHARD_FIELDS = {"file": str, "length": int, "rows": int, "continues": bool, "videos": list}
_VIDEO_FIELDS = {"name": str, "source": (str, type(None)), "rows": int, "stamp": list}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of one video: features float32 [n, F], embeddings float32 [n, D], timestamps int64 [n]."""

    features: np.ndarray
    embeddings: np.ndarray
    timestamps: np.ndarray


class Collection:
    """An embedded collection that is read a block of rows at a time.

    Attributes:
      path: as it was named.
      manifest: the JSON's content; None for an `.npz` of another program.
      num_rows: n.
    """

    def __init__(self, path: str):
        """Opens a collection; see `open_collection`."""
        self.path = path
        self._arrays: dict[str, np.ndarray] | None = None
        if path.endswith(".tfrecord"):
            self.manifest = read_manifest(manifest_path(path))
            self.num_rows = self.manifest["rows"]
            check_shards(path, self.manifest)
        else:
            self._arrays, self.manifest = _read_npz(path)
            self.num_rows = len(self._arrays["names"])

    def blocks(self, rows: int = _BLOCK_ROWS) -> Iterator[dict[str, np.ndarray]]:
        """The rows in order, at most so many at a time: a dict of the four arrays.

        Raises:
          errors.UserError: a damaged shard.
        """
        if self._arrays is not None:
            for start in range(0, self.num_rows, rows):
                yield {name: x[start : start + rows] for name, x in self._arrays.items()}
            return
        folder = os.path.dirname(self.path)
        for shard in self.manifest["shards"]:
            yield from self._shard_blocks(os.path.join(folder, shard["file"]), shard["rows"], rows)

    def _shard_blocks(self, path, expected, rows):
        spec = {
            FEATURES: tf.io.FixedLenFeature([self.manifest["feature_width"]], tf.float32),
            EMBEDDINGS: tf.io.FixedLenFeature([self.manifest["embedding_width"]], tf.float32),
            NAME: tf.io.FixedLenFeature([], tf.string),
            TIMESTAMP: tf.io.FixedLenFeature([], tf.int64),
        }
        dataset = tf.data.TFRecordDataset(path, buffer_size=2**20).batch(rows)
        dataset = dataset.map(lambda records: tf.io.parse_example(records, spec))
        found = 0
        try:
            for block in dataset.as_numpy_iterator():
                found += len(block[TIMESTAMP])
                yield {
                    "features": block[FEATURES],
                    "embeddings": block[EMBEDDINGS],
                    "names": np.array([name.decode() for name in block[NAME]]),
                    "timestamps": block[TIMESTAMP],
                }
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            first = str(error).splitlines()[0]
            raise errors.UserError(f"{path} is damaged: {first}; embed anew") from error
        if found != expected:
            raise errors.UserError(f"{path} holds {found} rows instead of {expected}; embed anew")

    def sources(self, names: set[str]) -> dict[str, str | None]:
        """Name -> path below the manifest's root, for those names that the manifest knows."""
        if self.manifest is None:
            return {}
        return {
            video["name"]: video["source"]
            for video in _videos(self.manifest)
            if video["name"] in names
        }


def open_collection(path: str) -> Collection:
    """The collection that a user names: `x.npz`, or `x.tfrecord` for shards with their `x.json`.

    Raises:
      errors.UserError: nothing of the kind there, a damaged file, or a missing shard.
    """
    if not path.endswith((".npz", ".tfrecord")):
        raise errors.UserError(f"--collection={path}: must end in .npz or .tfrecord")
    return Collection(path)


def load(path: str) -> dict[str, np.ndarray]:
    """All rows of a collection in memory: the four arrays; errors as `open_collection`'s."""
    blocks = list(open_collection(path).blocks())
    if not blocks:
        raise errors.UserError(f"{path}: holds no rows yet")
    return {name: np.concatenate([block[name] for block in blocks]) for name in ARRAYS}


def manifest_path(path: str) -> str:
    """`x.json` for `x.tfrecord`."""
    return path.removesuffix(".tfrecord") + ".json"


def shard_name(path: str, number: int) -> str:
    """The file name of a shard of `x.tfrecord`: `x-00003.tfrecord`."""
    return f"{os.path.basename(path).removesuffix('.tfrecord')}-{number:05d}.tfrecord"


def read_manifest(path: str) -> dict:
    """A manifest's content, checked.

    Raises:
      errors.UserError: missing, damaged, or of another version.
    """
    if storage.size(path) is None:
        raise errors.UserError(f"{path} does not exist: no embedded collection lies there")
    return parse_manifest(storage.read_bytes(path), path)


def parse_manifest(text: bytes | str, path: str) -> dict:
    """A manifest's content, checked; `path` is named in messages.

    Raises:
      errors.UserError: damaged, or of another version.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict) or "encoder_weights" not in document:
        raise errors.UserError(
            f"{path} is not the manifest of an embedded collection: take another name"
        )
    if document.get("format_version") != FORMAT_VERSION:
        raise errors.UserError(
            f"{path} has format version {document.get('format_version')!r}, this program reads "
            f"{FORMAT_VERSION}: embed anew"
        )
    _check(document, _TOP_FIELDS, path)
    sizes = [document[name] for name in ("feature_width", "embedding_width")]
    if not all(0 <= size <= _MAX_WIDTH for size in sizes) or document["rows"] < 0:
        raise errors.UserError(f"{path} is damaged: it has {document['rows']} rows of {sizes}")
    for shard in document["shards"]:
        _check(shard, _SHARD_FIELDS, path)
        # Collections may come from anywhere: nothing in them may lead out of their folders.
        if os.path.basename(shard["file"]) != shard["file"] or not _SHARD.search(shard["file"]):
            raise errors.UserError(f"{path} is damaged: it names a shard {shard['file']!r}")
    for video in _videos(document):
        _check(video, _VIDEO_FIELDS, path)
        if video["source"] is not None and not _is_below(video["source"]):
            raise errors.UserError(f"{path} is damaged: it has a source {video['source']!r}")
    return document


def _videos(manifest: dict) -> Iterator[dict]:
    """The videos of a manifest: those of its shards, or an `.npz`'s own."""
    yield from manifest.get("videos", ())
    for shard in manifest["shards"]:
        yield from shard["videos"]


def check_shards(path: str, manifest: dict) -> None:
    """Sees that every shard is there with its length.

    Raises:
      errors.UserError: one is not.
    """
    for shard in manifest["shards"]:
        file = os.path.join(os.path.dirname(path), shard["file"])
        if storage.size(file) != shard["length"]:
            raise errors.UserError(
                f"{file} is missing or not {shard['length']} bytes long, as {manifest_path(path)} "
                "says: restore it, or embed into another --output"
            )


def _read_npz(path: str) -> tuple[dict[str, np.ndarray], dict | None]:
    if not os.path.isfile(path):
        raise errors.UserError(f"{path} does not exist: no embedded collection lies there")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            if missing:
                raise errors.UserError(f"{path} has no array {missing[0]}: embed did not write it")
            arrays = {name: file[name] for name in ARRAYS}
            text = str(file[MANIFEST]) if MANIFEST in file else None
    except errors.UserError:
        raise
    # A damaged header makes NumPy and zipfile raise nearly anything, one that claims much MemoryError.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise errors.UserError(f"{path} is no readable .npz: {reason}") from error
    rows = len(arrays["names"])
    fits = all(len(x) == rows for x in arrays.values())
    if not fits or arrays["features"].ndim != 2 or arrays["embeddings"].ndim != 2:
        raise errors.UserError(f"{path} is damaged: its arrays do not fit together")
    return arrays, parse_manifest(text, path) if text is not None else None


def _check(entry: object, fields: dict, path: str) -> None:
    for key, types in fields.items():
        if not isinstance(entry, dict) or key not in entry or not isinstance(entry[key], types):
            raise errors.UserError(f"{path} is damaged: no valid {key!r}")


def _is_below(source: str) -> bool:
    """Whether a relative path stays below the folder it is relative to."""
    parts = os.path.normpath(source).split(os.sep)
    return not os.path.isabs(source) and ".." not in parts and "\0" not in source
