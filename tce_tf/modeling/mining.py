"""Which bank rows are an anchor's negatives? The hardest below a rising threshold, the rest random.

Early in training the threshold is low and nearly all negatives are random; it rises so that ever
harder ones qualify, while the most similar rows of all, likely the same action, stay excluded
until late (TCE section 3.3).
"""

import numpy as np
import tensorflow as tf

from tce_tf.modeling import selection


def mining_threshold(progress, low: float = -1.0, high: float = 1.0, rate: float = 5.0):
    """The similarity below which a row may be mined, `low + (high - low)(1 - exp(-rate p))`.

    The published code has exp(+rate p), which falls to -296 and mines nothing.

    Args:
      progress: p in [0, 1], the share of training done; a number or a tensor.
      low: the threshold at p = 0.
      high: what it rises towards; it reaches low + 0.993 (high - low) at p = 1, rate 5.
      rate: how fast.
    """
    return low + (high - low) * -tf.math.expm1(-rate * progress)


def sample_random_negatives(
    own_rows: tf.Tensor,
    live_rows: tf.Tensor,
    num_negatives: int,
    seed: tf.Tensor,
    slice_start: tf.Tensor | int = 0,
    num_anchors: tf.Tensor | int | None = None,
) -> tf.Tensor:
    """Uniform random rows with replacement, never the anchor's own.

    The draws are made for the whole global batch and sliced, so that a batch gets the same
    negatives on however many replicas it is spread.

    Args:
      own_rows: int [B], the anchors' rows.
      live_rows: int [M] ascending, the rows that hold a trained video; each own row among them.
      num_negatives: K.
      seed: int [2].
      slice_start: where this replica's B anchors start in the global batch.
      num_anchors: the global batch size; B by default.

    Returns:
      int32 [B, K].
    """
    batch = tf.shape(own_rows)[0]
    own_rows = tf.cast(own_rows, tf.int32)
    # Told apart here, where it is known: looking up a row's number costs as much as drawing it.
    all_live = isinstance(live_rows, np.ndarray) and live_rows[-1] == live_rows.size - 1
    live_rows = tf.cast(live_rows, tf.int32)
    drawn = tf.random.stateless_uniform(
        [batch if num_anchors is None else num_anchors, num_negatives],
        seed=seed,
        maxval=tf.size(live_rows) - 1,
        dtype=tf.int32,
    )
    # Not [start : start + batch]: of a start known in a loop only, XLA could not tell the length.
    drawn = tf.slice(drawn, [slice_start, 0], [batch, num_negatives])
    # Among M - 1 numbers, those from the own position on mean the row after: all but the own row.
    own_positions = own_rows if all_live else tf.searchsorted(live_rows, own_rows)
    positions = drawn + tf.cast(drawn >= own_positions[:, tf.newaxis], tf.int32)
    return positions if all_live else tf.gather(live_rows, positions)


def mine_hard_negatives(
    similarity: tf.Tensor,
    own_rows: tf.Tensor,
    live_mask: tf.Tensor,
    random_rows: tf.Tensor,
    threshold: tf.Tensor,
    max_hard: int,
    *,
    under_xla: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The most similar rows below the threshold, filled up to K with the random rows given.

    Args:
      similarity: float [B, N], anchors against the bank.
      own_rows: int [B]; never mined.
      live_mask: bool [N]; the other rows are never mined.
      random_rows: int32 [B, K].
      threshold: scalar; a row at or above it is not mined.
      max_hard: at most this many mined rows an anchor, in 0..K.
      under_xla: choose by `top_k`, which XLA compiles. Otherwise by `selection`: the same rows, of
        equals too, in several times less time on a CPU.

    Returns:
      negatives int32 [B, K], exactly K an anchor, mined ones first in no promised order; mined:
      int32 [B], how many.
    """
    max_hard = min(max_hard, similarity.shape[1] - 1)
    if max_hard == 0:
        return random_rows, tf.zeros_like(own_rows, tf.int32)

    def mix():
        ineligible = tf.constant(float("-inf"), similarity.dtype)
        scores = tf.where(similarity < threshold, similarity, ineligible)
        if not (isinstance(live_mask, np.ndarray) and live_mask.all()):
            scores = tf.where(live_mask[tf.newaxis], scores, ineligible)
        own = tf.cast(own_rows, tf.int32)
        own = tf.stack([tf.range(tf.size(own)), own], axis=1)
        scores = tf.tensor_scatter_nd_update(scores, own, tf.fill(tf.shape(own)[:1], ineligible))
        if under_xla:
            hardest, mined = _by_sorting(scores, max_hard)
        else:
            hardest, mined = selection.select_largest(scores, max_hard)
        filler = tf.zeros([tf.shape(hardest)[0], random_rows.shape[1] - max_hard], tf.int32)
        is_mined = tf.range(random_rows.shape[1])[tf.newaxis] < mined[:, tf.newaxis]
        return tf.where(is_mined, tf.concat([hardest, filler], axis=1), random_rows), mined

    # Early in training nothing is below the threshold, and one pass over the scores tells.
    return tf.cond(
        tf.reduce_min(similarity) < threshold,
        mix,
        lambda: (random_rows, tf.zeros_like(own_rows, tf.int32)),
    )


def _by_sorting(scores, count):
    _, hardest = tf.math.top_k(scores, count)
    mined = tf.math.count_nonzero(scores > scores.dtype.min, axis=1, dtype=tf.int32)
    return hardest, tf.minimum(mined, count)
