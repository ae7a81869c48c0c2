"""Exports that several tests look at: making one takes seconds."""

import pytest

from tce_tf.modeling import classifier
from tce_tf.serving import classifier_module, encoder_module, export, loader


@pytest.fixture(scope="session")
def exported_encoder(tmp_path_factory):
    """An `EncoderModule` and the folder of its export."""
    config = encoder_module.EncoderConfig(
        "resnet18", embedding_width=16, image_size=64, weight_decay=1e-4
    )
    module = loader.build_encoder(config, seed=1)
    return module, export.export_encoder(module, str(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="session")
def exported_classifier(tmp_path_factory):
    """An `ActionClassifier`, its `ClassifierModule` and the folder of its export."""
    config = classifier_module.ClassifierConfig(
        "resnet18", image_size=48, class_names=("Archery", "Bowling", "Größe"), segments=3
    )
    model = classifier.ActionClassifier(num_classes=3, seed=2)
    model.initialize(config.image_size)
    module = classifier_module.make_classifier(config, model.backbone, model.classifier)
    path = export.export_encoder(module, str(tmp_path_factory.mktemp("classifier")))
    return model, module, path
