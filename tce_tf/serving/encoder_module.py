"""What does an exported encoder offer? Three signatures for serving, one call for training.

Preprocessing is inside, only core TensorFlow operations are used, and the batch dimension is free.
"""

import dataclasses

import tensorflow as tf

from tce_tf import compat
from tce_tf.data import augmentation
from tce_tf.modeling import heads, resnet


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What rebuilds an encoder's Keras layers; saved in `assets.extra/tce_config.json`.

    `input_mode` is one of `resnet.INPUT_CHANNELS`; `EncoderModule` takes `rgb` only.
    """

    backbone: str = "resnet18"
    embedding_width: int = 128
    image_size: int = 224
    resize_mode: str = "crop"
    input_mode: str = "rgb"


class EncoderModule(tf.Module):
    """Backbone and projection head behind the export contract (DESIGN section 6).

    Args:
      config: sizes and preprocessing.
      backbone: built ResNet.
      projection: built projection head.

    Attributes:
      variables, trainable_variables, regularization_losses: the reusable-SavedModel interface.
    """

    # tf.Module computes these two; the reusable-SavedModel interface wants plain lists.
    variables = None
    trainable_variables = None

    def __init__(
        self, config: EncoderConfig, backbone: resnet.ResNet, projection: heads.ProjectionHead
    ):
        super().__init__(name="encoder")
        # In a closure, so that the SavedModel tracks variables and functions but no Keras layer.
        self._layers = lambda: (backbone, projection)
        self._config = lambda: config
        self.variables = [
            compat.tf_variable(w) for layer in (backbone, projection) for w in layer.weights
        ]
        # The call returns features, which the projection does not touch.
        self.trainable_variables = [compat.tf_variable(w) for w in backbone.trainable_weights]
        self.regularization_losses = []

    @property
    def config(self) -> EncoderConfig:
        """Sizes and preprocessing."""
        return self._config()

    @tf.function
    def __call__(self, images, training=False):
        """Images float32 [B, H, W, 3] in [0, 1], at their own size -> features float32 [B, F].

        TF Hub's image-feature-vector convention; normalised inside, not resized, not clipped.
        """
        backbone, _ = self._layers()
        return tf.cast(backbone(augmentation.normalize(images), training=training), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="frames")])
    def frames(self, frames):
        """Frames uint8 [B, H, W, 3] of any size -> `features` [B, F], `embeddings` [B, D]."""
        return self._encode(self._preprocess(frames))

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, None, 3], tf.uint8, name="clip")]
    )
    def clip(self, clip):
        """Clips uint8 [B, T, H, W, 3] -> `features` averaged over T, `embeddings` too (unit norm)."""
        shape = tf.shape(clip)
        outputs = self._encode(self._preprocess(tf.reshape(clip, tf.concat([[-1], shape[2:]], 0))))
        means = {
            name: tf.reduce_mean(tf.reshape(x, [shape[0], shape[1], x.shape[-1]]), axis=1)
            for name, x in outputs.items()
        }
        return means | {"embeddings": tf.math.l2_normalize(means["embeddings"], axis=-1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def image_bytes(self, image_bytes):
        """JPEG or PNG files, string [B] -> `features` [B, F], `embeddings` [B, D]."""
        size = self.config.image_size

        def decode(image):
            pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
            return self._preprocess(pixels[tf.newaxis])[0]

        images = tf.map_fn(
            decode,
            image_bytes,
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        )
        return self._encode(images)

    def _preprocess(self, frames):
        return augmentation.preprocess_evaluation(
            frames, image_size=self.config.image_size, resize_mode=self.config.resize_mode
        )

    def _encode(self, images):
        backbone, projection = self._layers()
        features = backbone(augmentation.normalize(images), training=False)
        return {
            "features": tf.cast(features, tf.float32),
            "embeddings": tf.cast(projection(features), tf.float32),
        }
