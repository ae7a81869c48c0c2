"""What is remembered of every video between its visits? One embedding, its latest."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tce_tf import compat
from tce_tf.modeling import resnet


class MemoryBank(keras.layers.Layer):
    """The last anchor embedding of each video: float [N, D], row = the video's stable number.

    Rows start uniform in [-s, s], s = 1 / sqrt(D / 3), so of about unit norm, as published. Float32
    under any mixed-precision policy, float64 under a float64 one.

    Args:
      num_rows: N.
      width: D.
      live_rows: the rows that training visits; all by default. Others (a rejected clip's number, a
        one-frame video) keep their initial vector and are never a negative.
      seed: of the initial rows.

    Raises:
      ValueError: sizes that are not positive, or a live row outside the bank.
    """

    def __init__(
        self,
        num_rows: int,
        width: int = 128,
        *,
        live_rows: Sequence[int] | np.ndarray | None = None,
        seed: int = 0,
        dtype=None,
        name="memory_bank",
        **kwargs,
    ):
        super().__init__(trainable=False, dtype=dtype, name=name, **kwargs)
        if num_rows < 1 or width < 1:
            raise ValueError(f"a bank needs positive sizes, got [{num_rows}, {width}]")
        live = np.arange(num_rows) if live_rows is None else np.unique(np.asarray(live_rows))
        if live.size == 0 or live[0] < 0 or live[-1] >= num_rows:
            raise ValueError(
                f"live rows must lie in 0..{num_rows - 1}, got {live[:1]}..{live[-1:]}"
            )
        self.num_rows, self.width, self.num_live = num_rows, width, int(live.size)
        # Kept as arrays: they are made constants of the graph where they are used.
        self.live_rows = live.astype(np.int32)
        self.live_mask = np.isin(np.arange(num_rows), live)
        bound = (width / 3) ** -0.5
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(num_rows, width),
            initializer=keras.initializers.RandomUniform(
                -bound, bound, seed=resnet.layer_seed(seed, "memory_bank")
            ),
            trainable=False,
            **compat.NO_AUTOCAST,
        )
        self.built = True

    def lookup(self, rows=None) -> tf.Tensor:
        """The embeddings of the given rows, float [n, D]; of all rows, [N, D], without them."""
        bank = tf.convert_to_tensor(self.embeddings)
        return bank if rows is None else tf.gather(bank, rows)

    def update(self, rows: tf.Tensor, embeddings: tf.Tensor) -> None:
        """Overwrites rows: int [B]; embeddings float [B, D]. Of a row that comes twice the first counts.

        It does where a sample stands in for an unreadable one; batch norm of replicas or parts of
        the batch makes two embeddings of it, and which a scatter would leave is not defined.

        Under a replica context every replica must be given the same, whole batch: each writes its
        own copy, and copies stay equal only if all write the same (`gather_replicas`).
        """
        variable = compat.tf_variable(self.embeddings)
        values = tf.cast(tf.stop_gradient(embeddings), variable.dtype)
        same = tf.cast(rows[:, tf.newaxis] == rows[tf.newaxis, :], tf.int32)
        values = tf.gather(values, tf.argmax(same, axis=1))
        variable.scatter_update(tf.IndexedSlices(values, rows))


def gather_replicas(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """Each tensor [B, ...] concatenated over replicas, in replica order: [global B, ...]."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return list(tensors)
    # An argument of the step has no device yet, and between workers the gather asks for it.
    return list(replica.all_gather([tf.identity(tensor) for tensor in tensors], axis=0))
