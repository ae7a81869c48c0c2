"""How does a batch whose activations do not fit into memory make one step? In parts, one by one."""

from collections.abc import Callable, Mapping

import tensorflow as tf


def over_parts(
    function: Callable,
    batch: Mapping[str, tf.Tensor],
    num_parts: int,
    sums: list[tf.Tensor],
    rows: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Runs a function on equal slices of a batch; adds up one result, lists the other.

    A loop whose rounds never overlap: at any time one part's intermediate values are in memory.
    Sums are made two at a time, so they repeat bit for bit (training/determinism.py).

    Args:
      function: (number of the part, the part by name) -> tensors shaped like `sums`, and a tensor
        [B / num_parts, W].
      batch: tensors [B, ...] by name; all dimensions but the first are known.
      num_parts: divides B. With 1 the function is called on the batch as it is, without a loop.
      sums: zeros, of the shapes and dtypes that the function returns.
      rows: zeros [B, W] likewise.

    Returns:
      The sums over parts, and the rows of all parts [B, W].
    """
    if num_parts == 1:
        return function(0, batch)
    slices = {
        name: tf.reshape(values, [num_parts, -1, *values.shape[1:]])
        for name, values in batch.items()
    }
    width = rows.shape[-1]

    def add_part(number, sums, rows):
        made, new_rows = function(number, {name: x[number] for name, x in slices.items()})
        sums = [total + value for total, value in zip(sums, made, strict=True)]
        place = tf.reshape(number, [1, 1])
        return number + 1, sums, tf.tensor_scatter_nd_update(rows, place, new_rows[tf.newaxis])

    _, sums, rows = tf.while_loop(
        lambda number, *_: number < num_parts,
        add_part,
        (tf.constant(0), list(sums), tf.reshape(rows, [num_parts, -1, width])),
        parallel_iterations=1,
    )
    return sums, tf.reshape(rows, [-1, width])
