"""How does a collection of embeddings come about? What every one says of itself, and small ones.

An `.npz` is kept in memory and written at the end, whole or not at all; a stopped run starts again.
`.tfrecord` is `shard_writer`'s.
"""

import io
import json
import os

import numpy as np

from tce_tf import errors
from tce_tf.data import storage
from tce_tf.evaluation import collection, shard_writer
from tce_tf.evaluation.collection import Rows
from tce_tf.serving import loader


def describe(encoder, name: str, *, root: str, pool: str, versions: dict[str, str]) -> dict:
    """The part of a manifest that is known before the first row.

    Args:
      encoder: as `embedding.embed` takes it, with `variables` and `config`.
      name: what the user calls it.
      root: `footage.Files.root`.
      pool: as in `embedding.embed`.
      versions: of the packages that compute.
    """
    config = vars(encoder.config) if encoder.config else None
    return {
        "format_version": collection.FORMAT_VERSION,
        "complete": False,
        "encoder": name,
        "encoder_weights": loader.weights_digest(encoder),
        "encoder_config": json.loads(json.dumps(config)),
        "pool": pool,
        "root": root,
        "versions": versions,
        "feature_width": 0,
        "embedding_width": 0,
        "rows": 0,
        "rejected": [],
        "shards": [],
    }


def open_writer(path: str, description: dict, *, rows_per_shard: int = shard_writer.ROWS_PER_SHARD):
    """The writer for an output file, a context manager.

    Args:
      path: ends in .npz or .tfrecord.
      description: of `describe`.
      rows_per_shard: of a `.tfrecord`.

    Raises:
      errors.FlagError: another ending.
      errors.UserError: not writable, or begun with another encoder or other flags.
    """
    if path.endswith(".npz"):
        return ArrayWriter(path, description)
    if path.endswith(".tfrecord"):
        return shard_writer.ShardWriter(path, description, rows_per_shard)
    raise errors.FlagError(f"--output={path}: must end in .npz or .tfrecord")


class ArrayWriter:
    """Collects rows and writes an `.npz` when they are complete."""

    def __init__(self, path: str, description: dict):
        self._path, self._manifest = path, dict(description)
        self._videos: list[dict] = []
        self._parts: list[Rows] = []
        storage.make_folder(os.path.dirname(path) or ".")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._parts = []

    @property
    def num_rows(self) -> int:
        """Rows in the collection."""
        return self._manifest["rows"]

    @property
    def widths(self) -> tuple[int, int]:
        """F and D, once there are rows."""
        return self._manifest["feature_width"], self._manifest["embedding_width"]

    def rows_stored(self, name: str, stamp: list) -> int | None:
        """How many rows of a video an earlier run left: none."""
        return 0

    def begin(self, name: str, source: str | None, stamp: list) -> None:
        """The next rows are of this video."""
        self._videos.append({"name": name, "source": source, "rows": 0, "stamp": stamp})

    def add(self, rows: Rows) -> None:
        """Adds rows of the video that was begun last."""
        self._videos[-1]["rows"] += len(rows.timestamps)
        self._parts.append(rows)

    def finish(self, rejected: list[dict], *, is_complete: bool) -> None:
        """Writes the file, if there is any row.

        Raises:
          errors.UserError: it cannot be written.
        """
        if not self._parts:
            return
        names = ("features", "embeddings", "timestamps")
        arrays = {
            name: np.concatenate([getattr(rows, name) for rows in self._parts]) for name in names
        }
        videos = [video for video in self._videos if video["rows"]]
        arrays["names"] = np.repeat(
            np.array([video["name"] for video in videos]), [video["rows"] for video in videos]
        )
        rows = len(arrays["names"])
        self._manifest.update(
            complete=is_complete,
            feature_width=arrays["features"].shape[1],
            embedding_width=arrays["embeddings"].shape[1],
            rows=rows,
            rejected=rejected,
            videos=videos,
        )
        arrays[collection.MANIFEST] = np.array(json.dumps(self._manifest))
        file = io.BytesIO()
        np.savez(file, **arrays)
        storage.write_atomic(self._path, file.getvalue())
