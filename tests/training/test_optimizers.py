"""Does SGD move weights as PyTorch's does? Against the recurrence, over a drop of the rate."""

import numpy as np
import pytest
import tensorflow as tf

from tce_tf.training import optimizers, schedules


def test_sgd_follows_the_recurrence():
    schedule = schedules.Schedule(0.1, [3], 0.1)
    optimizer = optimizers.SGD(schedule, momentum=0.9, coupled_weight_decay=0.01)
    start = np.array([1.0, -2.0, 3.0])
    variable = tf.Variable(start)
    optimizer.build([variable])
    weight, buffer = start.copy(), np.zeros(3)
    for step in range(6):
        gradient = np.sin(weight + step)
        buffer = 0.9 * buffer + gradient + 0.01 * weight
        weight = weight - (0.1 if step < 3 else 0.01) * buffer
        optimizer.apply_gradients([(tf.constant(np.sin(variable.numpy() + step)), variable)])
        np.testing.assert_allclose(variable.numpy(), weight, rtol=1e-14)


def test_schedule_drops_after_the_given_epochs():
    steps = schedules.decay_steps([25, 40], steps_per_epoch=10)
    schedule = schedules.Schedule(0.03, steps, 0.1)
    rates = [float(schedule.exact(step)) for step in (0, 249, 250, 399, 400)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003], rel=1e-12)
    assert schedule(0).dtype == tf.float32
