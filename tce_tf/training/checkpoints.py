"""How does a run survive its process? One atomic checkpoint holds all that training needs.

Model, optimizer, bank, Z and step are one TensorFlow checkpoint; the data position is arithmetic on
the step, so nothing else is state.
"""

import os

import tensorflow as tf

from tce_tf import errors


class Checkpoints:
    """The checkpoints `ckpt-<step>` in a workdir.

    Args:
      workdir: the run's folder.
      model: built, with every weight.
      optimizer: built for the model's trainable weights.
      keep: how many stay.
    """

    def __init__(self, workdir: str, model, optimizer=None, keep: int = 3):
        self._folder = os.path.join(workdir, "checkpoints")
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        parts = {"model": model, "step": self._step}
        if optimizer is not None:
            parts["optimizer"] = optimizer
        self._checkpoint = tf.train.Checkpoint(**parts)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, self._folder, max_to_keep=keep, checkpoint_name="ckpt"
        )

    def save(self, step: int) -> str:
        """Writes a checkpoint aside and renames it; returns its path."""
        self._step.assign(step)
        return self._manager.save(checkpoint_number=step)

    def restore(self) -> int | None:
        """Restores the newest checkpoint; returns its step, or None where there is none.

        Raises:
          errors.UserError: a checkpoint that does not fit this model.
        """
        path = newest(self._folder)
        if path is None:
            return None
        restore(self._checkpoint, path)
        return int(self._step.numpy())


def restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    """Reads a checkpoint and asserts that all of it, and nothing but it, was wanted.

    Args:
      checkpoint: what to restore; its variables exist.
      path: the checkpoint's prefix.

    Raises:
      errors.UserError: missing or damaged file, or one of another model.
    """
    try:
        checkpoint.restore(path).assert_consumed()
    except (AssertionError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise errors.UserError(
            f"checkpoint {path} does not fit the model of these flags: {first[:200]}"
        ) from error
    except (IndexError, tf.errors.OpError) as error:  # IndexError: a truncated file
        first = str(error).strip().splitlines()[0]
        raise errors.UserError(
            f"checkpoint {path} cannot be read ({first[:200]}): remove {path}.* to fall back to the "
            "one before"
        ) from error


def latest(workdir: str) -> str | None:
    """The newest checkpoint of a workdir, or None."""
    return newest(os.path.join(workdir, "checkpoints"))


def newest(folder: str) -> str | None:
    """The prefix of the checkpoint with the highest number in a folder, or None.

    By what is there, not by TensorFlow's list of them, which still names one that was removed.
    """
    pattern = os.path.join(folder, "ckpt-*.index")
    prefixes = [path.removesuffix(".index") for path in tf.io.gfile.glob(pattern)]
    numbers = {int(p.rsplit("-", 1)[1]): p for p in prefixes if p.rsplit("-", 1)[1].isdecimal()}
    return numbers[max(numbers)] if numbers else None
