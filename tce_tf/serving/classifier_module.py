"""What does an exported action classifier offer? The encoder's three signatures, with class scores.

logits         the linear layer's output, averaged over the frames of a clip
probabilities  softmax(segments x logits): training sums the logits of its segments, so that is
               the scale its loss saw
"""

import dataclasses
import os
import tempfile

import tensorflow as tf

from tce_tf.modeling import heads, resnet
from tce_tf.serving import encoder_module


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(encoder_module.EncoderConfig):
    """What rebuilds a classifier's layers; `class_names` in the order of the logits.

    `segments` is how many parts of a video had their logits summed in training.
    """

    class_names: tuple[str, ...] = ()
    segments: int = 1


def make_classifier(
    config: ClassifierConfig, backbone: resnet.ResNet, classifier: heads.Linear
) -> "ClassifierModule":
    """The module for the config's input mode around built layers."""
    kinds = {"rgb": ClassifierModule, "stack_of_differences": StackClassifierModule}
    return kinds[config.input_mode](config, backbone, classifier)


class _Classifies:
    """What a classifier makes of features [B, F], beside an encoder's preprocessing.

    Attributes:
      class_names: the asset `class_names.txt`, a name a line in the order of the logits.
    """

    def __init__(self, config: ClassifierConfig, backbone: resnet.ResNet, head: heads.Linear):
        super().__init__(config, backbone, head)
        folder = tempfile.TemporaryDirectory(prefix="tce_tf-")
        path = os.path.join(folder.name, "class_names.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in config.class_names)
        # The export copies the file, which lives as long as this module.
        self._folder = lambda: folder
        self.class_names = tf.saved_model.Asset(path)

    def _called_layers_weights(self, backbone, head):
        return backbone.trainable_weights + head.trainable_weights

    def _called(self, features):
        _, classifier = self._layers()
        return tf.cast(classifier(features), tf.float32)

    def _outputs(self, features):
        return self._of_clip({"logits": self._called(features)})

    def _of_clip(self, means):
        logits = means["logits"]
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(self.config.segments * logits),
        }


class ClassifierModule(_Classifies, encoder_module.EncoderModule):
    """Backbone and classifier on single images; calling it returns logits float32 [B, classes]."""


class StackClassifierModule(_Classifies, encoder_module.StackEncoderModule):
    """The same on stacks of six consecutive frames."""
