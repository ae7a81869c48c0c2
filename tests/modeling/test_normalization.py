"""Does batch norm normalise, and remember, as its equations say? In every form that it takes."""

import numpy as np
import pytest
import tensorflow as tf

from tce_tf import compat
from tce_tf.modeling import normalization

# Rank 2 is the rotation head's; rank 4 in float32 and below runs the fused kernel.
SHAPES = [(6, 3), (2, 4, 5, 3)]
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "mixed_bfloat16": 2e-2}


def make_layer(shape, policy, rng):
    """A built layer with random weights, and their values."""
    layer = normalization.BatchNormalization(dtype=policy)
    layer.build(shape)
    values = {}
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        weight = compat.tf_variable(getattr(layer, name))
        values[name] = rng.uniform(0.5, 1.5, shape[-1])
        weight.assign(values[name].astype(weight.dtype.as_numpy_dtype))
    return layer, values


@pytest.mark.parametrize("policy", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_modes_follow_the_equations(shape, policy):
    rng = np.random.default_rng(0)
    layer, given = make_layer(shape, policy, rng)
    x = rng.normal(2, 3, shape)
    inputs = tf.cast(x, layer.compute_dtype)
    flat = x.reshape(-1, shape[-1])
    mean, variance = flat.mean(axis=0), flat.var(axis=0)

    def normalised(mean, variance):
        return given["gamma"] * (x - mean) / np.sqrt(variance + 1e-5) + given["beta"]

    bound = TOLERANCES[policy]
    outputs = layer(inputs, training=False)
    assert outputs.dtype == layer.compute_dtype
    expected = normalised(given["moving_mean"], given["moving_variance"])
    np.testing.assert_allclose(tf.cast(outputs, tf.float64), expected, rtol=bound, atol=bound)
    np.testing.assert_allclose(layer.moving_mean, given["moving_mean"], rtol=1e-6)

    outputs = layer(inputs, training=True)
    expected = normalised(mean, variance)
    np.testing.assert_allclose(
        tf.cast(outputs, tf.float64), expected, rtol=2 * bound, atol=2 * bound
    )
    kept = {
        "moving_mean": 0.9 * given["moving_mean"] + 0.1 * mean,
        "moving_variance": 0.9 * given["moving_variance"] + 0.1 * flat.var(axis=0, ddof=1),
    }
    for name, value in kept.items():
        assert compat.tf_variable(getattr(layer, name)).dtype != tf.bfloat16
        np.testing.assert_allclose(getattr(layer, name), value, rtol=bound, err_msg=name)


@pytest.mark.parametrize("policy", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3)])
def test_a_single_value_leaves_finite_statistics(shape, policy):
    """A replica may hold one sample: its variance is 0, not 0/0, in both forms."""
    layer, given = make_layer(shape, policy, np.random.default_rng(1))
    outputs = layer(tf.ones(shape, layer.compute_dtype), training=True)
    np.testing.assert_allclose(np.ravel(outputs), given["beta"], rtol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * given["moving_mean"] + 0.1, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * given["moving_variance"], rtol=1e-5)
