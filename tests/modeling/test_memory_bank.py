"""Does the bank hold what was written, and only that?"""

import numpy as np
import pytest
import tensorflow as tf

from tce_tf.modeling import memory_bank


def test_initial_rows_are_uniform_and_seeded():
    bank = memory_bank.MemoryBank(2000, 48, seed=3)
    rows = bank.lookup().numpy()
    bound = (48 / 3) ** -0.5
    assert np.abs(rows).max() <= bound and np.abs(rows).max() > 0.999 * bound
    assert np.mean(rows**2) == pytest.approx(bound**2 / 3, rel=0.02)  # so the norm is near 1
    np.testing.assert_array_equal(rows, memory_bank.MemoryBank(2000, 48, seed=3).lookup())
    assert not np.array_equal(rows, memory_bank.MemoryBank(2000, 48, seed=4).lookup())


def test_update_writes_the_named_rows_and_no_other():
    bank = memory_bank.MemoryBank(6, 4)
    before = bank.lookup().numpy()
    new = np.arange(8, dtype=np.float32).reshape(2, 4)
    tf.function(bank.update)(tf.constant([4, 1], tf.int64), tf.constant(new))
    after = bank.lookup().numpy()
    np.testing.assert_array_equal(after[[4, 1]], new)
    np.testing.assert_array_equal(after[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    np.testing.assert_array_equal(bank.lookup([1, 4]), new[::-1])


def test_live_rows():
    bank = memory_bank.MemoryBank(5, 4, live_rows=[3, 1])
    assert bank.live_rows.tolist() == [1, 3] and bank.num_live == 2
    assert bank.live_mask.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("arguments", [(0, 4, None), (4, 0, None), (4, 4, []), (4, 4, [4])])
def test_bad_sizes_are_refused(arguments):
    rows, width, live = arguments
    with pytest.raises(ValueError):
        memory_bank.MemoryBank(rows, width, live_rows=live)


@pytest.mark.parametrize("jit", [False, True])
def test_of_a_row_that_comes_twice_the_first_counts(jit):
    bank = memory_bank.MemoryBank(6, 4)
    new = np.arange(12, dtype=np.float32).reshape(3, 4)
    update = tf.function(bank.update, jit_compile=jit)
    update(tf.constant([4, 1, 4], tf.int64), tf.constant(new))
    np.testing.assert_array_equal(bank.lookup([4, 1]), new[:2])
