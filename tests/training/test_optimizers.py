"""Do SGD, AdamW and LAMB move weights as their equations say? Typed out, over a drop of the rate."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tce_tf import compat
from tce_tf.training import optimizers, schedules, strategies


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


LAMB_WEIGHTS = (
    np.array([[1.0, -2.0], [3.0, 0.5]]),
    np.array([4.0, -5.0, 0.1]),
    np.zeros(2),  # as batch norm's beta: no norm, so a ratio of 1
)


def lamb_gradient(weight, step):
    # The last weight's first gradient is 0, so is its direction: a ratio of 1 again.
    return np.sin(weight + step) * (weight + step != 0)


def lamb_oracle(steps, decay, rate_of):
    """You et al. 2020, algorithm 2; Keras 3 takes the decay out of the ratio (see `make_lamb`)."""
    weights = [weight.copy() for weight in LAMB_WEIGHTS]
    first = [np.zeros_like(weight) for weight in weights]
    second = [np.zeros_like(weight) for weight in weights]
    for step in range(steps):
        for i, x in enumerate(weights):
            g = lamb_gradient(x, step)
            first[i] = 0.9 * first[i] + (1 - 0.9) * g
            second[i] = 0.999 * second[i] + (1 - 0.999) * g**2
            m, v = first[i] / (1 - 0.9 ** (step + 1)), second[i] / (1 - 0.999 ** (step + 1))
            direction = m / (np.sqrt(v) + 1e-6)
            if compat.KERAS_3:
                x = x - rate_of(step) * decay * x
            else:
                direction = direction + decay * x
            norms = np.linalg.norm(x), np.linalg.norm(direction)
            ratio = norms[0] / norms[1] if min(norms) > 0 else 1.0
            weights[i] = x - rate_of(step) * ratio * direction
    return weights


@pytest.mark.parametrize("devices", ["one_device", "mirrored"])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_lamb_follows_its_equations(devices, decay):
    """Each weight by its own norm, the rate as the schedule says, gradients summed over replicas."""
    strategy = strategies.make_strategy(devices)
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        schedule = schedules.Schedule(0.1, [3], 0.1)
        optimizer = optimizers.make_optimizer("lamb", schedule, momentum=0.9, weight_decay=decay)
        variables = [tf.Variable(weight) for weight in LAMB_WEIGHTS]
        compat.build_optimizer(optimizer, variables)

    @tf.function
    def step(*gradients):
        def per_replica():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            share = tf.cast(2 * (number + 1), tf.float64) / (replicas * (replicas + 1))
            shares = [share * gradient for gradient in gradients]  # not equal, their sum is 1
            optimizer.apply_gradients(zip(shares, variables, strict=True))

        strategy.run(per_replica)

    for number in range(5):
        now = [strategy.experimental_local_results(variable)[0] for variable in variables]
        step(*[tf.constant(lamb_gradient(weight.numpy(), number)) for weight in now])
    expected = lamb_oracle(5, decay, lambda number: 0.1 if number < 3 else 0.01)
    for variable, weight in zip(variables, expected, strict=True):
        for copy in strategy.experimental_local_results(variable):
            # Keras's rate is of float32, and so are betas and their powers.
            np.testing.assert_allclose(copy.numpy(), weight, rtol=1e-5, atol=1e-7)
    assert int(tf.convert_to_tensor(optimizer.iterations)) == 5


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="adam3"):
        optimizers.make_optimizer("adam3", schedules.Schedule(0.1), momentum=0.9, weight_decay=0)


@pytest.mark.parametrize("overflows", [None, 0, 1])
def test_an_overflow_of_any_replica_skips_the_step_of_all(overflows):
    strategy = strategies.make_strategy("mirrored")
    with strategy.scope():
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        layer.build((1, 1))
        optimizer = compat.LossScaleOptimizer(
            optimizers.SGD(schedules.Schedule(0.1), momentum=0.0), initial_scale=4.0
        )
        compat.build_optimizer(optimizer, layer.trainable_weights)
    kernel = compat.tf_variable(layer.kernel)

    @tf.function
    def step():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        is_bad = number == (-1 if overflows is None else overflows)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(kernel) * tf.where(is_bad, float("inf"), 1.0)
            loss = compat.scaled_loss(optimizer, loss)
        gradients = compat.unscaled_gradients(optimizer, tape.gradient(loss, [kernel]))
        compat.apply_gradients(optimizer, gradients, layer.trainable_weights)

    strategy.run(step)
    copies = [copy.numpy().item() for copy in strategy.experimental_local_results(kernel)]
    assert copies == pytest.approx([0.8 if overflows is None else 1.0] * 2)
    scale = compat.tf_variable(optimizer.dynamic_scale) if compat.KERAS_3 else optimizer.loss_scale
    assert scale.numpy() == (4 if overflows is None else 2)
    assert compat.tf_variable(optimizer.iterations).numpy() == 1
