"""Are the negatives those that TCE asks for? Counted against numpy, over wide input."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tce_tf.modeling import mining


def test_threshold_closed_form():
    # low + (high - low)(1 - e^(-rate p)) with the paper's -1, 1, 5.
    for progress, expected in ((0.0, -1.0), (0.2, 1 - 2 / np.e), (1.0, 1 - 2 * np.exp(-5))):
        actual = mining.mining_threshold(tf.constant(progress, tf.float64))
        assert float(actual) == pytest.approx(expected, abs=1e-12)
    rising = [float(mining.mining_threshold(p, 0.1, 0.5, 3.0)) for p in np.linspace(0, 1, 50)]
    assert np.all(np.diff(rising) > 0) and rising[0] == pytest.approx(0.1) and rising[-1] < 0.5


def test_threshold_meets_its_ends_for_any_setting():
    for low, high, rate in ((-1.0, 1.0, 5.0), (0.2, 0.2, 5.0), (-0.5, 0.7, 0.0), (0.0, 1.0, 50.0)):
        for progress in np.linspace(0, 1, 11):
            expected = low + (high - low) * (1 - np.exp(-rate * progress))
            actual = mining.mining_threshold(tf.constant(progress), low, high, rate)
            assert float(actual) == pytest.approx(expected, abs=1e-12)


def negatives(similarity, own, live, threshold, num_negatives, max_hard, seed=0):
    random_rows = mining.sample_random_negatives(
        tf.constant(own), np.flatnonzero(live), num_negatives, tf.constant([seed, 0])
    )
    chosen, mined = mining.mine_hard_negatives(
        tf.constant(similarity),
        tf.constant(own),
        tf.constant(live),
        random_rows,
        tf.constant(threshold, tf.float32),
        max_hard,
    )
    return chosen.numpy(), mined.numpy(), random_rows.numpy()


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 10**6),
    num_videos=st.integers(2, 30),
    # Quarters as well, so that scores tie with each other and with the threshold.
    threshold=st.floats(-1, 1, width=32, allow_subnormal=False)
    | st.integers(-4, 4).map(lambda quarter: quarter / 4),
    in_quarters=st.booleans(),
    hard_fraction=st.floats(0, 1),
)
def test_mined_rows_are_those_of_the_oracle(
    seed, num_videos, threshold, in_quarters, hard_fraction
):
    rng = np.random.default_rng(seed)
    batch = int(rng.integers(1, num_videos + 1))
    num_negatives = int(rng.integers(1, num_videos))
    live = rng.random(num_videos) < 0.8
    own = rng.permutation(num_videos)[:batch]
    live[own] = True
    live[(own[0] + 1) % num_videos] = True  # another row to draw
    similarity = rng.uniform(-1, 1, (batch, num_videos)).astype(np.float32)
    if in_quarters:
        similarity = np.round(similarity * 4) / np.float32(4)
    max_hard = int(hard_fraction * num_negatives)
    chosen, mined, random_rows = negatives(
        similarity, own, live, threshold, num_negatives, max_hard, seed
    )
    assert chosen.shape == (batch, num_negatives)
    for b in range(batch):
        eligible = [
            r for r in range(num_videos)
            if live[r] and r != own[b] and similarity[b, r] < np.float32(threshold)
        ]  # fmt: skip
        hardest = sorted(eligible, key=lambda r: -similarity[b, r])[:max_hard]
        assert mined[b] == len(hardest)
        assert sorted(chosen[b, : mined[b]]) == sorted(hardest)
        np.testing.assert_array_equal(chosen[b, mined[b] :], random_rows[b, mined[b] :])
        assert own[b] not in chosen[b] and live[chosen[b]].all()


def test_random_rows_are_uniform_over_the_others():
    own, live_rows = tf.constant([0, 3, 9]), np.array([0, 2, 3, 5, 9])
    counts = np.zeros((3, 10))
    rows = mining.sample_random_negatives(own, live_rows, 40_000, tf.constant([7, 1])).numpy()
    for b in range(3):
        counts[b] = np.bincount(rows[b], minlength=10)
        others = [r for r in live_rows if r != own[b]]
        assert counts[b].sum() == counts[b, others].sum()
        chi_square = np.sum((counts[b, others] - 10_000) ** 2 / 10_000)
        assert chi_square < 16.27  # 3 degrees of freedom, p = 0.001
    assert not np.array_equal(rows[0], rows[1])


def test_random_rows_do_not_depend_on_how_the_batch_is_shared():
    own, live_rows, seed = np.arange(8), np.arange(20), tf.constant([3, 5])
    whole = mining.sample_random_negatives(tf.constant(own), live_rows, 6, seed)
    halves = [
        mining.sample_random_negatives(tf.constant(own[s : s + 4]), live_rows, 6, seed, s, 8)
        for s in (0, 4)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(halves))


def test_random_rows_are_uniform_over_many_steps():
    """One draw a step, as the rows of a batch see it: seeds that differ by one are independent."""
    own, live_rows, steps = tf.constant([5, 2]), np.arange(12), 3000

    @tf.function
    def draw(step):
        seed = tf.stack([tf.constant(9, tf.int64), step])
        return mining.sample_random_negatives(own, live_rows, 2, seed)

    rows = np.stack([draw(step).numpy() for step in tf.range(steps, dtype=tf.int64)])  # [steps,2,2]
    for b, own_row in enumerate((5, 2)):
        counts = np.bincount(rows[:, b].ravel(), minlength=12)
        assert counts[own_row] == 0
        others = np.delete(counts, own_row)
        assert np.sum((others - 2 * steps / 11) ** 2 / (2 * steps / 11)) < 29.59  # 10 d.f., p 0.001
    for one, other in ((rows[1:, 0, 0], rows[:-1, 0, 0]), (rows[:, 0, 0], rows[:, 0, 1]),
                       (rows[:, 0, 0], rows[:, 1, 0])):  # fmt: skip
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / np.sqrt(steps)


def test_a_row_at_the_threshold_is_not_mined():
    similarity = np.array([[0.9, 0.5, 0.25, 0.25, np.nextafter(np.float32(0.5), np.float32(0))]])
    chosen, mined, random_rows = negatives(
        similarity.astype(np.float32), np.array([0]), np.ones(5, bool), 0.5, 4, 4
    )
    assert mined.tolist() == [3] and set(chosen[0, :3]) == {4, 2, 3}
    assert chosen[0, 3] == random_rows[0, 3]


def test_two_videos():
    chosen, mined, _ = negatives(
        np.eye(2, dtype=np.float32), np.array([0, 1]), np.ones(2, bool), 0.5, 1, 1
    )
    assert chosen.tolist() == [[1], [0]] and mined.tolist() == [1, 1]
