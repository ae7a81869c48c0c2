"""Which rows are most similar to a query? By cosine, a block of queries at a time."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

_CHUNK_ROWS = 1024  # bounds the similarity matrix at 1024 x M floats


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows float [M, F] scaled to unit norm, float32; a zero row stays zero.

    Raises:
      ValueError: a value that is not finite.
    """
    features = np.asarray(features, np.float32)
    if not np.isfinite(features).all():
        raise ValueError("features contain NaN or infinity")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norms, np.finfo(np.float32).tiny)


def similarities(queries: np.ndarray, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Cosines of every query with every row, in blocks of queries.

    Args:
      queries: float [Q, F], any norm.
      rows: float [M, F], any norm.

    Yields:
      The block's place among the queries, and its similarities, float32 [q, M].

    Raises:
      ValueError: widths differ, no rows, or values that are not finite.
    """
    queries, rows = unit_rows(queries), unit_rows(rows)
    if len(rows) == 0:
        raise ValueError("at least one training row is needed, got none")
    if queries.shape[1] != rows.shape[1]:
        raise ValueError(f"queries {queries.shape} and rows {rows.shape} do not fit together")
    for start in range(0, len(queries), _CHUNK_ROWS):
        block = slice(start, min(start + _CHUNK_ROWS, len(queries)))
        yield block, queries[block] @ rows.T


def nearest(block: np.ndarray, k: int) -> np.ndarray:
    """The k most similar rows, best first; of equally similar ones the earlier first.

    Args:
      block: float32 [q, M] similarities.
      k: at least 1; at most M rows come back.

    Returns:
      int32 [q, min(k, M)].
    """
    return tf.math.top_k(block, min(k, block.shape[1])).indices.numpy()
