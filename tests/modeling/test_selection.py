"""Are the K largest of each row found? Against a stable sort, over ties, gaps and both routes."""

import numpy as np
import pytest
import tensorflow as tf

from tce_tf.modeling import mining, selection


def expected(scores, count):
    """The columns a stable descending sort puts first, without -inf."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return [set(row[np.isfinite(scores[b, row])]) for b, row in enumerate(order)]


def check(select, scores, count):
    columns, found = select(tf.constant(scores), count)
    assert columns.shape == (len(scores), count) and columns.dtype == tf.int32
    for b, wanted in enumerate(expected(scores, count)):
        chosen = columns[b, : found[b]].numpy()
        assert found[b] == len(wanted) and set(chosen) == wanted
        assert np.all(np.diff(chosen) > 0)


def spoil(scores, how, rng):
    if how == "ties":
        return np.round(scores * 8) / scores.dtype.type(8)
    if how == "one value":
        return np.zeros_like(scores)
    if how == "few":  # rows of 0, 1, many and all candidates
        for b, share in enumerate((0.0, 1 / scores.shape[1], 0.02, 0.3)):
            scores[b, rng.random(scores.shape[1]) >= share] = -np.inf
    if how == "misleading":  # a sample sees none of the large ones, or nothing else
        scores[0, ::2] -= 10
        scores[1, ::2] += 10
        scores[2, :: max(scores.shape[1] // 40, 1)] += 10
        scores[3, : scores.shape[1] // 20] += 10
    if how == "signs":
        scores[0] = -np.abs(scores[0])
        scores[1] = np.abs(scores[1]) * 1e30
        scores[2] = np.where(scores[2] < 0, -0.0, 0.0)
        scores[3, ::3] *= 1e-30
    return scores


# (N, K): everything compared, and candidates picked by a sample of every second to eighth value.
@pytest.mark.parametrize("size", [(40, 1), (300, 70), (2400, 600), (9000, 2000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_selected_are_those_of_a_sort(size, dtype):
    select = tf.function(selection.select_largest)
    for how in ("plain", "ties", "one value", "few", "misleading", "signs"):
        rng = np.random.default_rng(size[0])
        scores = rng.standard_normal((4, size[0])).astype(dtype)
        check(select, spoil(scores, how, rng), size[1])


def test_both_ways_of_mining_agree():
    rng = np.random.default_rng(2)
    similarity = np.round(rng.uniform(-1, 1, (5, 9000)).astype(np.float32), 3)
    own = tf.constant(rng.permutation(9000)[:5])
    random_rows = tf.constant(rng.integers(0, 9000, (5, 2000)), tf.int32)
    live = rng.random(9000) < 0.9
    for threshold in (-2.0, -0.9, 0.4):
        chosen = []
        for under_xla in (False, True):
            mine = tf.function(mining.mine_hard_negatives, jit_compile=under_xla or None)
            negatives, mined = mine(
                tf.constant(similarity), own, live, random_rows, tf.constant(threshold), 1500,
                under_xla=under_xla,
            )  # fmt: skip
            chosen.append(
                [
                    (set(row[:m].numpy()), row[m:].numpy().tolist())
                    for row, m in zip(negatives, mined.numpy(), strict=True)
                ]
            )
        assert chosen[0] == chosen[1]
