"""Which are the K largest of each row? Found by counting, without sorting a row.

`tf.math.top_k` keeps a heap of K and is slow on a CPU for K in the thousands. Here a sample of each
row gives a bound that a little more than K of its values pass; those are copied out, the K-th largest
value among them is found by bisection, and what reaches it is taken. Of equal values the first ones
are taken, as by `top_k`. Nothing is estimated: where a sample misleads, all of that row is copied.
"""

import tensorflow as tf

# A sampled value in so many; with fewer than 64 of the wanted ones sampled the bound would be loose.
_WANTED_SAMPLES = 256
_MIN_WANTED_SAMPLES = 64
# The bound is taken so many standard deviations of the sample's count too low.
_SAFETY = 5.0


def select_largest(scores: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The columns of the `count` largest finite values of each row.

    Args:
      scores: float [B, N]; -inf is no candidate, NaN and +inf must not occur.
      count: K, in 1..N.

    Returns:
      columns: int32 [B, K], ascending in each row's first `found` places, arbitrary behind them.
      found: int32 [B], the number of finite values of the row, at most K.
    """
    lowest = scores.dtype.min
    num_columns = scores.shape[1]
    stride = count // _WANTED_SAMPLES
    if num_columns < 4 * count or stride < 2 or count // stride < _MIN_WANTED_SAMPLES:
        # All are candidates; a copy of a part would save nothing.
        available = tf.math.count_nonzero(scores >= lowest, axis=1, dtype=tf.int32)
        found = tf.minimum(available, count)
        return _pack(_reach_kth(scores, found), found, count)[0], found

    wanted = count / stride
    rank = min(int(wanted + _SAFETY * wanted**0.5) + 1, -(-num_columns // stride))
    # Strided, not a block: neighbouring rows of the bank are often of one class.
    bounds = tf.math.top_k(scores[:, ::stride], rank).values[:, -1:]
    bounds = tf.maximum(bounds, lowest)
    passing = tf.reduce_sum(tf.cast(scores >= bounds, tf.int32), axis=1)
    bounds = tf.where(passing[:, tf.newaxis] < count, lowest, bounds)
    passes = scores >= bounds
    available = tf.reduce_sum(tf.cast(passes, tf.int32), axis=1)
    columns, flat = _pack(passes, available, tf.reduce_max(available))
    candidates = tf.gather(tf.reshape(scores, [-1]), flat)
    valid = tf.range(tf.shape(columns)[1])[tf.newaxis] < available[:, tf.newaxis]
    candidates = tf.where(valid, candidates, tf.constant(float("-inf"), scores.dtype))

    found = tf.minimum(available, count)
    places, _ = _pack(_reach_kth(candidates, found), found, count)
    return tf.gather(columns, places, batch_dims=1), found


def _pack(chosen, per_row, width):
    """Columns int32 [B, width] of the true entries of bool [B, M], and their flat places int64."""
    num_rows, num_columns = tf.unstack(tf.shape(chosen, out_type=tf.int64))
    flat = tf.concat([tf.where(tf.reshape(chosen, [-1]))[:, 0], [0]], axis=0)
    starts = tf.cumsum(per_row, exclusive=True)[:, tf.newaxis]
    places = tf.minimum(starts + tf.range(width)[tf.newaxis], tf.size(flat) - 1)
    flat = tf.gather(flat, places)
    # Behind a row's own entries follow those of the next row.
    columns = flat - tf.range(num_rows)[:, tf.newaxis] * num_columns
    columns = tf.clip_by_value(columns, 0, num_columns - 1)
    return tf.cast(columns, tf.int32), flat


def _reach_kth(scores, per_row):
    """Bool [B, M]: the per_row largest finite values of each row, the first of equal ones."""
    keys = _ordered_integers(scores)
    wanted = per_row[:, tf.newaxis]

    def reaching(bounds):
        passing = tf.cast(keys >= tf.cast(bounds, keys.dtype), tf.int32)
        return tf.reduce_sum(passing, axis=1, keepdims=True)

    # At least `wanted` reach `low`, fewer reach `high`; both become neighbouring integers.
    finite_lowest = _ordered_integers(tf.constant(scores.dtype.min, scores.dtype))
    low = tf.reduce_min(tf.maximum(keys, finite_lowest), axis=1, keepdims=True)
    high = tf.reduce_max(keys, axis=1, keepdims=True)
    low, high = tf.cast(low, tf.int64), tf.cast(high, tf.int64) + 1

    def halve(low, high):
        middle = low // 2 + high // 2 + (low % 2 + high % 2) // 2  # high - low may overflow
        enough = reaching(middle) >= wanted
        return tf.where(enough, middle, low), tf.where(enough, high, middle)

    low, _ = tf.while_loop(lambda low, high: tf.reduce_any(low + 1 < high), halve, (low, high))
    low = tf.cast(low, keys.dtype)
    reaches = keys >= low

    def first_of_equals():
        equal = keys == low
        spare = wanted - tf.reduce_sum(tf.cast(keys > low, tf.int32), axis=1, keepdims=True)
        return (keys > low) | (equal & (tf.cumsum(tf.cast(equal, tf.int32), axis=1) <= spare))

    exact = tf.reduce_all(tf.reduce_sum(tf.cast(reaches, tf.int32), axis=1) == per_row)
    return tf.cond(exact, lambda: reaches, first_of_equals)


def _ordered_integers(values):
    """Integers of the floats' width that compare as the floats do."""
    integer = tf.int64 if values.dtype == tf.float64 else tf.int32
    bits = tf.bitcast(values, integer)
    # Negative ones are a sign and a magnitude: negated they ascend, and both zeros are 0.
    return tf.where(bits < 0, integer.min - bits, bits)
