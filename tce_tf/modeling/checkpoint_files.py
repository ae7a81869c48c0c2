"""Which checkpoints does a workdir hold, and which of them are whole?

A checkpoint is `ckpt-<step>.index` and `ckpt-<step>.data-*`. TensorFlow keeps a CRC of every tensor
and of every block of the index: a checkpoint is whole if all of it can be read. So there is no
marker that could be there without it, and what a power cut left half-written is told apart.
"""

import os
import re

import tensorflow as tf
from absl import logging

from tce_tf import errors
from tce_tf.data import storage

_INDEX = re.compile(r"ckpt-(\d+)\.index")


def folder_of(workdir: str) -> str:
    """The folder of a workdir's checkpoints."""
    return os.path.join(workdir, "checkpoints")


def prefix_of(folder: str, step: int) -> str:
    """The path of a checkpoint without its endings, which is how TensorFlow names it."""
    return os.path.join(folder, f"ckpt-{step}")


def steps(folder: str) -> list[int]:
    """The steps of all checkpoints in a folder, whole or not, ascending; none without the folder."""
    if not tf.io.gfile.isdir(folder):
        return []
    found = (_INDEX.fullmatch(name) for name in tf.io.gfile.listdir(folder))
    return sorted(int(match[1]) for match in found if match)


def write(checkpoint: tf.train.Checkpoint, prefix: str) -> None:
    """Writes a checkpoint and sees it onto the disk.

    Raises:
      errors.UserError: the disk is full, the folder is not writable, ...
    """
    folder, name = os.path.split(prefix)
    try:
        with storage.reported("write", prefix):
            checkpoint.write(prefix)
        storage.sync(folder, f"{name}.")
    finally:  # what a full disk or a writer that was killed has left
        for left in tf.io.gfile.glob(f"{folder}/ckpt-*_temp*"):
            tf.io.gfile.rmtree(left)


def problem(prefix: str) -> str | None:
    """What is wrong with a checkpoint, in one line; None if all of it can be read."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    # A damaged index comes as any of these, by where the damage lies.
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        return " ".join(str(error).split())[:200]
    return None


def newest_whole(folder: str) -> int | None:
    """The step of the newest whole checkpoint, or None; each damaged one on the way is warned of."""
    for step in reversed(steps(folder)):
        found = problem(prefix_of(folder, step))
        if found is None:
            return step
        logging.warning(
            "checkpoint %s is damaged and passed over: %s", prefix_of(folder, step), found
        )
    return None


def newest(workdir: str) -> str:
    """The prefix of a workdir's newest whole checkpoint.

    Raises:
      errors.UserError: it has none.
    """
    folder = folder_of(workdir)
    step = newest_whole(folder)
    if step is None:
        raise errors.UserError(
            f"{folder} holds damaged checkpoints only: train again in another --workdir"
            if steps(folder)
            else f"{workdir} has no checkpoint yet: train first"
        )
    return prefix_of(folder, step)
