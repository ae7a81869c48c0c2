"""How does a run survive its process? One atomic checkpoint holds all that training needs.

Model, optimizer, bank, Z and step are one TensorFlow checkpoint; the data position is arithmetic on
the step, so nothing else is state. Older ones are removed only when the newer one is on the disk.
"""

import tensorflow as tf
from absl import logging

from tce_tf import errors
from tce_tf.data import storage
from tce_tf.modeling import checkpoint_files


class Checkpoints:
    """The checkpoints `ckpt-<step>` in a workdir.

    Args:
      workdir: the run's folder.
      model: built, with every weight.
      optimizer: built for the model's trainable weights.
      keep: how many stay, beside damaged ones that were passed over.
    """

    def __init__(self, workdir: str, model, optimizer=None, keep: int = 3):
        self._folder = checkpoint_files.folder_of(workdir)
        self._keep = keep
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        parts = {"model": model, "step": self._step}
        if optimizer is not None:
            parts["optimizer"] = optimizer
        self._checkpoint = tf.train.Checkpoint(**parts)
        # Looked at to be made: a restored checkpoint must have it on both sides.
        _ = self._checkpoint.save_counter
        self._passed_over: set[int] = set()

    def save(self, step: int) -> str:
        """Writes a checkpoint, sees it onto the disk, removes the oldest; returns its path.

        Raises:
          errors.UserError: it cannot be written. Those before it are untouched.
        """
        prefix = checkpoint_files.prefix_of(self._folder, step)
        self._step.assign(step)
        checkpoint_files.write(self._checkpoint, prefix)
        self._passed_over.discard(step)
        done = [s for s in checkpoint_files.steps(self._folder) if s <= step]
        for old in [s for s in done if s not in self._passed_over][: -self._keep]:
            storage.remove(self._folder, f"ckpt-{old}.")
        return prefix

    def restore(self) -> int | None:
        """Restores the newest whole checkpoint; returns its step, or None where there is none.

        Damaged ones are warned of and left where they are, until a run reaches their step again.

        Raises:
          errors.UserError: a checkpoint that does not fit this model.
        """
        step = checkpoint_files.newest_whole(self._folder)
        found = checkpoint_files.steps(self._folder)
        self._passed_over = {s for s in found if step is None or s > step}
        if step is None:
            if self._passed_over:  # the first one ever, cut short, is one of these
                logging.warning("%s holds no whole checkpoint: starts at step 0", self._folder)
            return None
        restore(self._checkpoint, checkpoint_files.prefix_of(self._folder, step))
        return int(self._step.numpy())

    def latest(self) -> str:
        """The prefix of the newest checkpoint that can be resumed from, or `none`."""
        usable = [s for s in checkpoint_files.steps(self._folder) if s not in self._passed_over]
        return checkpoint_files.prefix_of(self._folder, usable[-1]) if usable else "none"


def restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    """Reads a whole checkpoint and asserts that all of it, and nothing but it, was wanted.

    Args:
      checkpoint: what to restore; its variables exist.
      path: the checkpoint's prefix.

    Raises:
      errors.UserError: one of another model.
    """
    try:
        checkpoint.restore(path).assert_consumed()
    except (AssertionError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise errors.UserError(
            f"checkpoint {path} does not fit the model of these flags: {first[:200]}"
        ) from error
