"""Does the classifier learn by the published rule? Golden logits, a slow oracle, replicas, dropout."""

import golden_recipe
import numpy as np
import pytest
import small_network
import tensorflow as tf

from tce_tf import compat
from tce_tf.modeling import classifier, resnet, torch_names
from tce_tf.training import optimizers, schedules, strategies

# Two blocks: what is tested is the step, and each model is traced anew.
resnet.STAGES.setdefault("tiny", small_network.SMALL)


def make_model(seed=0, rate=0.1, dtype="float64", **kwargs):
    model = classifier.ActionClassifier("tiny", num_classes=3, seed=seed, dtype=dtype, **kwargs)
    model.initialize(32)
    optimizer = optimizers.SGD(schedules.Schedule(rate), momentum=0.9)
    optimizer.build(model.optimized_weights)
    model.compile(optimizer=optimizer)
    return model


def make_views(videos=4, segments=3, channels=3, size=32):
    rng = np.random.default_rng(0)
    return {
        "images": tf.constant(rng.normal(size=(videos, segments, size, size, channels))),
        "label": tf.constant(rng.integers(0, 3, videos)),
    }


def weights_of(model):
    return [compat.tf_variable(weight).numpy() for weight in model.weights]


def test_golden_logits():
    golden = golden_recipe.load("finetune_resnet18")
    batch, size, seed = (int(golden[key]) for key in ("batch", "size", "seed"))
    model = classifier.ActionClassifier("resnet18", num_classes=golden["logits_eval"].shape[1])
    model.initialize(size)
    named = torch_names.backbone_weights(model.backbone)
    named |= torch_names.classifier_weights(model.classifier)
    for key, shape in torch_names.torch_shapes(named):
        value = golden_recipe.parameter(key, shape, seed).astype(np.float32)
        compat.tf_variable(named[key]).assign(torch_names.from_torch_layout(value))
    images = golden_recipe.images("forward", batch, size, seed).astype(np.float32)
    logits = model(tf.constant(images), training=False)
    error = np.abs(logits - golden["logits_eval"]).max() / np.abs(golden["logits_eval"]).max()
    assert error < 1e-5


def test_a_step_follows_the_summed_logits():
    model, oracle, views = make_model(), make_model(), make_views()
    logs = tf.function(model.train_step)(views)

    with tf.GradientTape() as tape:
        parts = [oracle(views["images"][:, part], training=True) for part in range(3)]
        logits = parts[0] + parts[1] + parts[2]
        log_softmax = logits - tf.reduce_logsumexp(logits, axis=1, keepdims=True)
        loss = -tf.reduce_mean(tf.gather(log_softmax, views["label"], batch_dims=1))
    variables = [compat.tf_variable(weight) for weight in oracle.trainable_weights]
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        variable.assign_sub(0.1 * gradient)
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-12)
    hits = np.argmax(logits, axis=1) == views["label"].numpy()
    assert float(logs["accuracy"]) == hits.mean()
    for ours, expected in zip(weights_of(model), weights_of(oracle), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_a_frozen_backbone_stays_and_the_linear_layer_learns():
    model, views = make_model(freeze_backbone=True, rate=1e-3), make_views()
    before = weights_of(model)
    first = model.train_step(views)
    for _ in range(20):
        last = model.train_step(views)
    changed = [(old != new).any() for old, new in zip(before, weights_of(model), strict=True)]
    assert sum(changed) == 2 and float(last["loss"]) < float(first["loss"])
    named = torch_names.classifier_weights(model.classifier).values()
    assert {id(w) for w in model.optimized_weights} == {id(w) for w in named}


def test_dropout_repeats_by_step_and_is_off_in_inference():
    views = make_views()
    first, same, none = (make_model(dropout=rate) for rate in (0.5, 0.5, 0.0))
    losses = [[float(model.train_step(views)["loss"]) for _ in range(2)] for model in (first, same)]
    assert losses[0] == losses[1]
    assert losses[0][0] != float(none.train_step(views)["loss"])
    model = make_model(dropout=0.9)
    np.testing.assert_array_equal(
        model(views["images"][:, 0], training=False), make_model()(views["images"][:, 0])
    )
    # The share dropped, and the rest scaled up to the same mean.
    ones = tf.ones([200, 500])
    kept = tf.nn.experimental.stateless_dropout(ones, 0.3, seed=[1, 2]).numpy()
    assert np.isclose((kept == 0).mean(), 0.3, atol=0.01) and np.isclose(kept.mean(), 1, atol=0.02)


def test_two_replicas_share_a_batch():
    """On halves of equal images batch norm sees the same, so the weights must come out equal."""
    half = make_views(videos=3, size=64)
    whole = {name: tf.concat([value, value], axis=0) for name, value in half.items()}
    alone = make_model(rate=1e-3)
    expected = [float(alone.train_step(whole)["loss"]) for _ in range(2)]
    strategy = strategies.make_strategy("mirrored")
    with strategy.scope():
        model = make_model(rate=1e-3)
    run = tf.function(lambda: strategy.run(model.train_step, args=(half,)))
    for loss in expected:
        logs = run()
        for value in strategy.experimental_local_results(logs["loss"]):
            assert float(value) == pytest.approx(loss, rel=1e-9)
    # The unbiased variance of two images is not that of four: statistics are left out.
    trained = {id(weight) for weight in model.trainable_weights}
    for ours, other in zip(model.weights, alone.weights, strict=True):
        if id(ours) in trained:
            values = [np.asarray(v) for v in strategy.experimental_local_results(
                compat.tf_variable(ours))]  # fmt: skip
            np.testing.assert_allclose(values[0], compat.tf_variable(other), rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(values[1], values[0], rtol=1e-9, atol=1e-11)


def test_a_stack_takes_fifteen_channels():
    model = make_model(input_mode="stack_of_differences")
    logs = model.train_step(make_views(channels=15, segments=1))
    assert np.isfinite(float(logs["loss"]))
