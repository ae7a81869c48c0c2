"""Is the learning rate of a step that of the paper's table, on every step and in every form?"""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tce_tf.training import schedules


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    base=st.floats(1e-4, 10),
    epochs=st.lists(st.integers(1, 50), unique=True, max_size=4).map(sorted),
    factor=st.sampled_from([0.1, 0.2, 0.5]),
    steps_per_epoch=st.integers(1, 9),
)
def test_rate_is_the_base_times_the_factor_for_each_epoch_passed(
    base, epochs, factor, steps_per_epoch
):
    schedule = schedules.Schedule(base, schedules.decay_steps(epochs, steps_per_epoch), factor)
    around = {0, *(epoch * steps_per_epoch + offset for epoch in epochs for offset in (-1, 0, 1))}
    for step in around:
        rate = base
        for epoch in epochs:
            if step // steps_per_epoch >= epoch:
                rate *= factor
        assert float(schedule.exact(step)) == pytest.approx(rate, rel=1e-14)
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-7)


def test_after_epoch_25_is_the_first_step_of_the_26th():
    steps = schedules.decay_steps([25, 40], steps_per_epoch=10)
    schedule = schedules.Schedule(0.03, steps, 0.1)
    rates = [float(schedule.exact(step)) for step in (0, 249, 250, 399, 400)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003], rel=1e-12)


def test_rate_is_the_same_in_a_graph_for_a_step_that_is_a_variable():
    schedule = schedules.Schedule(0.03, [2, 4])
    step = tf.Variable(0, dtype=tf.int64)

    @tf.function
    def advance():
        rate = schedule.exact(step)
        step.assign_add(1)
        return rate

    rates = [advance() for _ in range(6)]
    assert all(rate.dtype == tf.float64 for rate in rates)
    np.testing.assert_allclose(rates, [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003], rtol=1e-14)
    assert schedule(step).dtype == tf.float32


def test_without_drops_the_rate_is_constant():
    schedule = schedules.Schedule(0.05)
    assert [float(schedule.exact(step)) for step in (0, 1, 10**9)] == [0.05] * 3


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(warmup=st.integers(0, 12), rest=st.integers(1, 30), base=st.floats(1e-4, 10))
def test_cosine_after_a_warm_up(warmup, rest, base):
    total = warmup + rest
    schedule = schedules.Schedule(base, [3], 0.1, warmup_steps=warmup, cosine_steps=total)
    rates = [float(schedule.exact(step)) for step in range(total + 2)]
    expected = [base * (step + 1) / warmup for step in range(warmup)]
    expected += [base * (1 + np.cos(np.pi * step / rest)) / 2 for step in range(rest)]
    np.testing.assert_allclose(rates, [*expected, 0, 0], rtol=1e-12, atol=1e-15 * base)


def test_drops_come_at_their_steps_after_a_warm_up_too():
    schedule = schedules.Schedule(0.1, [4, 6], 0.1, warmup_steps=2)
    rates = [float(schedule.exact(step)) for step in range(7)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("shape", [{}, {"warmup_steps": 3}, {"cosine_steps": 11}])
def test_config_makes_the_same_schedule(shape):
    schedule = schedules.Schedule(0.05, [7, 9], 0.5, **shape)
    again = schedules.Schedule.from_config(schedule.get_config())
    assert [float(again.exact(s)) for s in range(12)] == [
        float(schedule.exact(s)) for s in range(12)
    ]
