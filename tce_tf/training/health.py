"""Is a run still worth its time? A loss or weights that are not finite end it; what may be mended warns.

The loss is watched on the device at every step, and looked at by the host only when it reads the
logged values anyway, so that watching costs no wait.
"""

from collections.abc import Mapping

import tensorflow as tf
from absl import logging

from tce_tf import compat, errors

# Below this the embeddings of a batch are all but the same vector; 1 / sqrt(D) is healthy.
COLLAPSED_STD = 1e-3
STALLED_WAIT_FRACTION = 0.3


class Watch:
    """Watches one run.

    Args:
      model: its weights must be finite before they are saved.
    """

    def __init__(self, model):
        self._weights = [compat.tf_variable(w) for w in model.weights]
        # Steps since the loss was first not finite, that one included.
        self._bad_steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._weights_are_finite = tf.function(self._find_finite)
        self._has_warned: set[str] = set()
        self._windows = 0

    def note(self, loss: tf.Tensor) -> None:
        """Counts a step on the device; call inside the step's `tf.function`."""
        counts = (self._bad_steps > 0) | ~tf.math.is_finite(loss)
        self._bad_steps.assign_add(tf.cast(counts, tf.int64))

    def check_loss(self, step: int, last_checkpoint: str) -> None:
        """Waits for the device and ends the run if a loss up to this step was not finite.

        Raises:
          errors.UserError: it names the first such step.
        """
        bad_steps = int(self._bad_steps.numpy())
        if bad_steps:
            self._fail(f"the loss is not finite at step {step - bad_steps + 1}", last_checkpoint)

    def check_weights(self, step: int, last_checkpoint: str) -> None:
        """Ends the run if a weight or a bank row is not finite: such a checkpoint is never written.

        Raises:
          errors.UserError: with what to do.
        """
        if not self._weights_are_finite():
            self._fail(f"weights are not finite after step {step}", last_checkpoint)

    def warn(self, step: int, values: Mapping[str, float]) -> None:
        """Warns, once each, of collapse and of a stalled input.

        Args:
          step: the step logged.
          values: its `embedding_std`, if it has any, and the `input_wait_fraction` of the steps
            since the last call; the first call's is not judged, the pipeline having to fill.
        """
        if values.get("embedding_std", 1) < COLLAPSED_STD:
            self._warn_once(
                f"step {step}: embedding_std {values['embedding_std']:.1e}: all embeddings are nearly "
                "the same (collapse); try a lower --learning_rate, --warmup_epochs, "
                "--optimizer=adamw or --loss=infonce",
                "collapse",
            )
        if self._windows and values["input_wait_fraction"] > STALLED_WAIT_FRACTION:
            self._warn_once(
                f"step {step}: {100 * values['input_wait_fraction']:.0f} % of the time went into "
                "waiting for input; try shards on a local disk, shards made with --short_side "
                "close to 8/7 of --image_size, or more CPU cores",
                "input",
            )
        self._windows += 1

    def _warn_once(self, message, kind):
        if kind not in self._has_warned:
            self._has_warned.add(kind)
            logging.warning("%s", message)

    def _fail(self, what, last_checkpoint):
        raise errors.UserError(
            f"{what} (last good checkpoint: {last_checkpoint}): lower --learning_rate or use "
            "--precision=float32, and start again in another --workdir"
        )

    def _find_finite(self):
        floats = [w for w in self._weights if w.dtype.is_floating]
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(w)) for w in floats])
