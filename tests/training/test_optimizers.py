"""Do SGD and AdamW move weights as their equations say? Typed out, over a drop of the rate."""

import numpy as np
import pytest
import tensorflow as tf

from tce_tf.training import optimizers, schedules


def test_sgd_follows_the_recurrence():
    """For a matrix and a bias, which decays like any weight, each with a buffer of its own."""
    schedule = schedules.Schedule(0.1, [3], 0.1)
    optimizer = optimizers.SGD(schedule, momentum=0.9, coupled_weight_decay=0.01)
    weights = [np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([4.0, -5.0])]
    variables = [tf.Variable(weight, name=name) for weight, name in zip(weights, "wb", strict=True)]
    optimizer.build(variables)
    buffers = [np.zeros_like(weight) for weight in weights]
    for step in range(6):
        rate = 0.1 if step < 3 else 0.01
        gradients = [tf.constant(np.sin(variable.numpy() + step)) for variable in variables]
        for i, weight in enumerate(weights):
            gradient = np.sin(weight + step)
            buffers[i] = 0.9 * buffers[i] + gradient + 0.01 * weight
            weights[i] = weight - rate * buffers[i]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for variable, weight in zip(variables, weights, strict=True):
            np.testing.assert_allclose(variable.numpy(), weight, rtol=1e-14)


def test_building_again_keeps_the_momentum():
    """A restored optimizer meets `build` again when training starts."""
    optimizer = optimizers.SGD(schedules.Schedule(1.0))
    variable = tf.Variable([1.0])
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant([1.0]), variable)])
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant([0.0]), variable)])
    np.testing.assert_allclose(variable.numpy(), [1 - 1 - 0.9], rtol=1e-6)


def test_adamw_follows_its_equations():
    """Decay off the weight, not through the moments; the rate falls when the schedule says."""
    schedule = schedules.Schedule(0.1, [3], 0.1)
    optimizer = optimizers.make_optimizer("adamw", schedule, momentum=0.5, weight_decay=0.2)
    weight = np.array([1.0, -2.0, 0.5])
    variable = tf.Variable(weight, dtype=tf.float32)
    optimizer.build([variable])
    first, second = np.zeros(3), np.zeros(3)
    for step in range(5):
        rate = 0.1 if step < 3 else 0.01
        optimizer.apply_gradients([(tf.sin(variable + step), variable)])
        gradient = np.sin(weight + step)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        weight = weight - rate * 0.2 * weight - rate * corrected[0] / np.sqrt(corrected[1])
        np.testing.assert_allclose(variable.numpy(), weight, rtol=1e-4)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="adam3"):
        optimizers.make_optimizer("adam3", schedules.Schedule(0.1), momentum=0.9, weight_decay=0)
