"""Can an export be trained further by others? In plain Keras, by tensorflow_hub, on replicas."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tce_tf.training import strategies

README = pathlib.Path(__file__).parent.parent.parent / "README.md"


def batch(count=8):
    """Images of two classes, one bright and one dark, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.random((count, 64, 64, 3), np.float32) * 0.5 + 0.5 * labels[:, None, None, None]
    return tf.constant(images, tf.float32), tf.constant(labels)


def values(variables):
    return [v.numpy() for v in variables]


def changed(before, variables):
    """The names of variables that are no longer what they were."""
    pairs = zip(before, variables, strict=True)
    return [v.name for old, v in pairs if (old != v.numpy()).any()]


def test_the_readmes_example_trains_all_of_the_encoder(exported_encoder):
    _, path = exported_encoder
    section = README.read_text(encoding="utf-8").split("### Fine-tuning in Keras")[1]
    setup, loop = re.search(r"```python\n(.*?)\n\n(for .*?)```", section, re.S).groups()
    assert len(f"{setup}\n{loop}".strip().splitlines()) <= 20
    names = {}
    exec(setup.replace("exported/ucf101/1", path), names)
    encoder = names["encoder"]
    before = values(encoder.variables)
    images, labels = batch()
    start = names["step"](images, labels).numpy()
    names["dataset"] = [(images, labels)] * 7
    exec(loop, names)
    assert names["step"](images, labels) < start / 2
    moved = changed(before, encoder.variables)
    # All but the projection head, which features do not pass: 60 weights, 40 moving statistics.
    assert len(moved) == 100 and len(before) == 102
    assert sum("moving" in name for name in moved) == 40
    before = values(encoder.variables)
    encoder(images)
    assert not changed(before, encoder.variables)


def test_a_hub_layer_trains_it(exported_encoder):
    hub = pytest.importorskip("tensorflow_hub", reason="of the tests on Python 3.11 alone")
    _, path = exported_encoder
    layer = hub.KerasLayer(path, trainable=True)
    model = keras.Sequential([layer, keras.layers.Dense(2)])
    images, labels = batch()
    model(images)
    assert len(layer.trainable_weights) == 60 and len(layer.non_trainable_weights) == 42
    squares = sum(np.sum(v.numpy() ** 2) for v in layer.trainable_weights)
    np.testing.assert_allclose(model.losses, [1e-4 * squares / 2], rtol=1e-4)
    before = values(layer.weights)
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(images, labels, batch_size=8, verbose=0)
    assert len(changed(before, layer.weights)) == 100
    before = values(layer.weights)
    model.predict(images, verbose=0)
    assert not changed(before, layer.weights)


def trained(path, strategy, images, labels):
    """The encoder after one step, `images` and `labels` being the batch of each replica."""
    with strategy.scope():
        encoder = tf.saved_model.load(path)
        head = keras.layers.Dense(2, kernel_initializer=keras.initializers.RandomNormal(seed=0))
        head.build([None, 512])
        weights = [*encoder.trainable_variables, *head.trainable_variables]
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        optimizer.build(weights)

    def step(images, labels):
        with tf.GradientTape() as tape:
            logits = head(encoder(images, training=True))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses) + sum(r() for r in encoder.regularization_losses)
            loss /= strategy.num_replicas_in_sync
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    tf.function(lambda: strategy.run(step, args=(images, labels)))()
    return encoder, strategy


def copies(encoder, strategy):
    """The value of every variable on each replica."""
    return [
        [copy.numpy() for copy in strategy.experimental_local_results(v)] for v in encoder.variables
    ]


def test_replicas_stay_equal_and_take_the_step_of_one_device(exported_encoder):
    _, path = exported_encoder
    images, labels = batch()
    one, _ = trained(path, tf.distribute.get_strategy(), images, labels)
    mirrored = strategies.make_strategy("mirrored")
    # Each replica sees the same batch, so that two of them must do what one does.
    two, _ = trained(path, mirrored, images, labels)
    start = tf.saved_model.load(path)
    moved = 0
    for name, (first, second), alone, before in zip(
        (v.name for v in one.variables), copies(two, mirrored), one.variables, start.variables,
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(first, second, err_msg=name)
        scale = 1e-5 + np.abs(alone.numpy() - before.numpy()).max()
        np.testing.assert_allclose(first, alone, atol=1e-3 * scale, rtol=1e-6, err_msg=name)
        moved += (first != before.numpy()).any()
    assert moved == 100
    before = copies(two, mirrored)
    tf.function(lambda: mirrored.run(two, args=(images,)))()  # inference moves nothing
    for old, new in zip(before, copies(two, mirrored), strict=True):
        np.testing.assert_array_equal(old, new)
