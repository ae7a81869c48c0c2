"""Does an exported classifier keep its contract? Signatures, class names, scores of clips."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tce_tf import errors
from tce_tf.data import augmentation
from tce_tf.modeling import classifier
from tce_tf.serving import classifier_module, export, loader

CONFIG = classifier_module.ClassifierConfig(
    "resnet18", image_size=48, class_names=("Archery", "Bowling", "Größe"), segments=3
)


def make_module(config):
    model = classifier.ActionClassifier(num_classes=3, input_mode=config.input_mode, seed=2)
    model.initialize(config.image_size)
    return model, classifier_module.make_classifier(config, model.backbone, model.classifier)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def test_signatures_give_scores_of_the_model(exported_classifier):
    model, _, path = exported_classifier
    loaded = tf.saved_model.load(path)
    frames = np.random.default_rng(0).integers(0, 256, (4, 50, 70, 3), dtype=np.uint8)
    images = augmentation.preprocess_evaluation(frames, image_size=48)
    expected = model(augmentation.normalize(images), training=False).numpy()
    png = tf.stack([tf.io.encode_png(frame) for frame in frames])
    for outputs in (
        loaded.signatures["frames"](frames=tf.constant(frames)),
        loaded.signatures["serving_default"](image_bytes=png),
    ):
        assert set(outputs) == {"logits", "probabilities"}
        np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
        # The loss of three segments saw three times these logits.
        np.testing.assert_allclose(outputs["probabilities"], softmax(3 * expected), atol=1e-5)
    clip = loaded.signatures["clip"](clip=tf.constant(frames.reshape(2, 2, 50, 70, 3)))
    means = expected.reshape(2, 2, 3).mean(axis=1)
    np.testing.assert_allclose(clip["logits"], means, atol=1e-5)
    np.testing.assert_allclose(clip["probabilities"], softmax(3 * means), atol=1e-5)
    np.testing.assert_allclose(loaded(images), expected, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loaded(images, training=True) ** 2)
    gradients = tape.gradient(loss, loaded.trainable_variables)
    assert len(gradients) == 62 and all(g is not None for g in gradients)

    with open(loaded.class_names.asset_path.numpy(), encoding="utf-8") as file:
        assert file.read().splitlines() == list(CONFIG.class_names)
    assert tf.io.gfile.exists(f"{path}/assets/class_names.txt")
    assert loader.encoder_config(path).backbone == "resnet18"


def test_stacks_are_classified_too(tmp_path):
    config = dataclasses.replace(
        CONFIG, input_mode="stack_of_differences", segments=1, weight_decay=1e-3
    )
    model, module = make_module(config)
    loaded = tf.saved_model.load(export.export_encoder(module, str(tmp_path)))
    stacks = np.random.default_rng(0).integers(0, 256, (2, 6, 48, 48, 3), dtype=np.uint8)
    images = augmentation.preprocess_evaluation(stacks.reshape(12, 48, 48, 3), image_size=48)
    normal = tf.reshape(augmentation.normalize(images), [2, 6, 48, 48, 3])
    expected = model(augmentation.stack_of_differences(normal), training=False)
    logits = loaded.signatures["frames"](frames=tf.constant(stacks))["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    # The classifier's own weights decay, too.
    squares = sum(np.sum(np.square(v.numpy())) for v in loaded.trainable_variables)
    np.testing.assert_allclose(loaded.regularization_losses[0](), 1e-3 * squares / 2, rtol=1e-5)


def test_an_encoder_is_asked_for_where_a_classifier_is_given(exported_classifier):
    with pytest.raises(errors.UserError, match="is a classifier, not an encoder"):
        loader.load_encoder(exported_classifier[-1])
