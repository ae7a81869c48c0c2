"""How do rows of embeddings become TFRecord shards, so that a run may be killed at any time and go on?

Rows go to a hidden file, which becomes a shard when it is full; then the manifest is replaced by one
that lists it. What the manifest does not list does not count. A shard may end within a video, so a
run that was stopped goes on from its last shard, in the middle of a video if need be, and cuts its
shards where an undisturbed run would.
"""

import contextlib
import json
import os
import re

import tensorflow as tf
from absl import logging

from tce_tf import errors
from tce_tf.data import locks, storage
from tce_tf.evaluation import collection
from tce_tf.evaluation.collection import Rows

# 50 MB of a ResNet-18's rows, and some eight minutes of work of a CPU: what a kill may cost.
ROWS_PER_SHARD = 20_000
# What decides the content of a collection; who goes on with it must have the same.
_IDENTITY = ("encoder_weights", "encoder_config", "pool", "root", "rows_per_shard")


class ShardWriter:
    """Writes shards and their manifest; goes on where an earlier run was stopped."""

    def __init__(self, path: str, description: dict, rows_per_shard: int):
        self._path, self._limit = path, rows_per_shard
        folder, stem = os.path.split(path.removesuffix(".tfrecord"))
        self._folder = folder or "."
        storage.make_folder(self._folder)
        self._partial = os.path.join(self._folder, f".{stem}.partial")
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(
            locks.exclusive(
                os.path.join(self._folder, f".{stem}.lock"),
                command="embed",
                output=path,
                flag="output",
            )
        )
        self._writer: tf.io.TFRecordWriter | None = None
        self._videos: list[dict] = []  # in the shard being written
        self._video: dict = {}
        try:
            self._manifest = self._begin_or_resume(
                description | {"rows_per_shard": rows_per_shard}, re.escape(stem)
            )
        except BaseException:
            self._lock.close()
            raise
        self._finished, self._unfinished = _progress(self._manifest)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        try:
            if self._writer is not None:  # an error or Ctrl-C: the next run makes this shard again
                with contextlib.suppress(tf.errors.OpError):  # a full disk, reported already
                    self._writer.close()
                os.unlink(self._partial)
        finally:
            self._lock.close()

    @property
    def num_rows(self) -> int:
        """Rows in the collection."""
        return self._manifest["rows"]

    @property
    def widths(self) -> tuple[int, int]:
        """F and D, once there are rows."""
        return self._manifest["feature_width"], self._manifest["embedding_width"]

    def rows_stored(self, name: str, stamp: list) -> int | None:
        """How many rows of a video are written already; None when all are.

        Raises:
          errors.UserError: they were of another video of this name.
        """
        stored = self._finished.get(name) or self._unfinished.get(name)
        if stored is None:
            return 0
        if stored["stamp"] != stamp:
            raise errors.UserError(
                f"{name} changed since it was embedded into {self._path}: use another --output"
            )
        return None if name in self._finished else stored["rows"]

    def begin(self, name: str, source: str | None, stamp: list) -> None:
        """The next rows are of this video."""
        self._video = {"name": name, "source": source, "rows": 0, "stamp": stamp}

    def add(self, rows: Rows) -> None:
        """Adds rows of the video that was begun last; the shard before them may be closed.

        Raises:
          errors.UserError: the disk is full.
        """
        # Closed before rows are added, not after: only now it is known whether its last video is over.
        if sum(video["rows"] for video in self._videos) >= self._limit:
            self._close_shard(continues=self._videos[-1] is self._video)
        if not self._videos or self._videos[-1] is not self._video:
            self._video = self._video | {"rows": 0}
            self._videos.append(self._video)
        self._manifest["feature_width"] = rows.features.shape[1]
        self._manifest["embedding_width"] = rows.embeddings.shape[1]
        name = self._video["name"].encode()
        try:
            if self._writer is None:
                self._writer = tf.io.TFRecordWriter(self._partial)
            columns = (rows.timestamps, rows.features, rows.embeddings)
            for values in zip(*(column.tolist() for column in columns), strict=True):
                self._writer.write(_example(name, *values))
        except tf.errors.OpError as error:
            raise _not_written(self._partial, error.message) from error
        self._video["rows"] += len(rows.timestamps)

    def finish(self, rejected: list[dict], *, is_complete: bool) -> None:
        """Closes the last shard and writes the manifest.

        Raises:
          errors.UserError: the disk is full.
        """
        if self._videos:
            self._close_shard(continues=False)
        self._manifest["rejected"] = rejected
        self._manifest["complete"] = is_complete
        self._write_manifest()

    def _begin_or_resume(self, description: dict, stem: str) -> dict:
        path = collection.manifest_path(self._path)
        shards = [
            name
            for name in storage.names(self._folder)
            if re.fullmatch(stem + r"-[0-9]{5}\.tfrecord", name)
        ]
        if storage.size(path) is None:
            if shards:
                raise errors.UserError(
                    f"{os.path.join(self._folder, shards[0])} is there without its {path}: remove "
                    "the shards or choose another --output"
                )
            self._manifest = description
            self._write_manifest()
            return description
        earlier = collection.read_manifest(path)
        for key in _IDENTITY:
            if earlier.get(key) != description[key]:
                raise _begun_otherwise(self._path, key, earlier, description)
        if earlier.get("versions") != description["versions"]:
            logging.warning(
                "%s was begun with %s, this is %s: numbers may differ in the last digits",
                path, earlier.get("versions"), description["versions"],
            )  # fmt: skip
        collection.check_shards(self._path, earlier)
        for name in shards:  # finished just before the run was killed, and not listed any more
            if name not in {shard["file"] for shard in earlier["shards"]}:
                os.unlink(os.path.join(self._folder, name))
        if earlier["shards"]:
            logging.info("%s: goes on after %d rows", self._path, earlier["rows"])
        return earlier | {"complete": False}

    def _close_shard(self, *, continues: bool) -> None:
        name = collection.shard_name(self._path, len(self._manifest["shards"]))
        file = os.path.join(self._folder, name)
        rows = sum(video["rows"] for video in self._videos)
        try:
            self._writer.close()
            self._writer = None
            length = os.path.getsize(self._partial)
            storage.publish(self._partial, file)
        except tf.errors.OpError as error:
            raise _not_written(file, error.message) from error
        except OSError as error:
            raise _not_written(file, error.strerror) from error
        self._manifest["shards"].append(
            {
                "file": name,
                "length": length,
                "rows": rows,
                "continues": continues,
                "videos": self._videos,
            }
        )
        self._manifest["rows"] += rows
        self._videos = []
        self._write_manifest()

    def _write_manifest(self) -> None:
        path = collection.manifest_path(self._path)
        # A name of its own, not a new one each time: what a kill leaves is taken away by the next run.
        temporary = os.path.join(self._folder, f".{os.path.basename(path)}")
        try:
            with open(temporary, "w", encoding="ascii") as file:
                json.dump(self._manifest, file, indent=1)
            storage.publish(temporary, path)
        except OSError as error:
            raise _not_written(path, error.strerror) from error


def _example(name: bytes, timestamp: int, features: list[float], embeddings: list[float]) -> bytes:
    def floats(values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    feature = {
        collection.FEATURES: floats(features),
        collection.EMBEDDINGS: floats(embeddings),
        collection.NAME: tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
        collection.TIMESTAMP: tf.train.Feature(int64_list=tf.train.Int64List(value=[timestamp])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def _progress(manifest: dict) -> tuple[dict, dict]:
    """Name -> `rows` and `stamp` of the videos that are all there, and of those cut by a shard's end."""
    finished: dict[str, dict] = {}
    unfinished: dict[str, dict] = {}
    for shard in manifest["shards"]:
        for position, video in enumerate(shard["videos"]):
            name = video["name"]
            rows = video["rows"] + unfinished.pop(name, {"rows": 0})["rows"]
            cut = shard["continues"] and position == len(shard["videos"]) - 1
            (unfinished if cut else finished)[name] = {"rows": rows, "stamp": video["stamp"]}
    return finished, unfinished


def _begun_otherwise(path: str, key: str, earlier: dict, now: dict) -> errors.UserError:
    if key.startswith("encoder"):
        return errors.UserError(
            f"{path} was begun with another encoder ({earlier['encoder']}): use that one, or another "
            "--output"
        )
    flag = {"root": "input"}.get(key, key)
    return errors.UserError(
        f"{path} was begun with --{flag}={earlier.get(key)}, now it is {now[key]}: use the same, or "
        "another --output"
    )


def _not_written(path: str, reason: str) -> errors.UserError:
    first = reason.strip().partition("\n")[0]
    return errors.UserError(f"--output: {path} cannot be written: {first}")
