"""What does an exported encoder offer? Three signatures for serving, one call for training.

Preprocessing is inside, only core TensorFlow operations are used, and the batch dimension is free.
"""

import dataclasses

import tensorflow as tf

from tce_tf import compat
from tce_tf.data import augmentation
from tce_tf.modeling import heads, resnet, torch_names
from tce_tf.serving import image_files


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What rebuilds an encoder's Keras layers; saved in `assets.extra/tce_config.json`.

    `input_mode` is one of `resnet.INPUT_CHANNELS`; `weight_decay` is what training added to the gradient
    of each weight w, as `weight_decay * w`.
    """

    backbone: str = "resnet18"
    embedding_width: int = 128
    image_size: int = 224
    resize_mode: str = "crop"
    input_mode: str = "rgb"
    weight_decay: float = 0.0


def named_weights(backbone: resnet.ResNet, head) -> dict:
    """PyTorch key -> weight of a backbone and a projection head or classifier."""
    of_head = torch_names.classifier_weights
    if isinstance(head, heads.ProjectionHead):
        of_head = torch_names.projection_weights
    return torch_names.backbone_weights(backbone) | of_head(head)


def make_encoder(
    config: EncoderConfig, backbone: resnet.ResNet, projection: heads.ProjectionHead
) -> "EncoderModule":
    """The module for the config's input mode around built layers."""
    kinds = {"rgb": EncoderModule, "stack_of_differences": StackEncoderModule}
    return kinds[config.input_mode](config, backbone, projection)


def build_layers(
    config: EncoderConfig, *, seed: int = 0
) -> tuple[resnet.ResNet, heads.ProjectionHead]:
    """Backbone and projection head with fresh weights, for the config's input mode."""
    backbone = resnet.ResNet(config.backbone, seed=seed)
    projection = heads.ProjectionHead(config.embedding_width, seed=seed)
    channels = resnet.INPUT_CHANNELS[config.input_mode]
    projection(backbone(tf.zeros([1, config.image_size, config.image_size, channels])))
    return backbone, projection


class EncoderModule(tf.Module):
    """Backbone and projection head behind the export contract (DESIGN section 6).

    Args:
      config: sizes and preprocessing.
      backbone: built ResNet.
      head: built projection head.

    Attributes:
      variables, trainable_variables, regularization_losses: the reusable-SavedModel interface.
        `variables` are in the order of `variable_names`, on every version of Keras. The losses are
        functions without arguments: one of all `trainable_variables`, whose gradient is the weight
        decay of training; none if there was none.
      image_shape: what `__call__` takes, without the batch: [H, W, 3].
    """

    # tf.Module computes these two; the reusable-SavedModel interface wants plain lists.
    variables = None
    trainable_variables = None

    image_shape = (None, None, 3)

    def __init__(self, config: EncoderConfig, backbone: resnet.ResNet, head):
        super().__init__(name="encoder")
        # In a closure, so that the SavedModel tracks variables and functions but no Keras layer.
        self._layers = lambda: (backbone, head)
        self._config = lambda: config
        named = named_weights(backbone, head)
        self._names = lambda: list(named)
        self.variables = [compat.tf_variable(w) for w in named.values()]
        self.trainable_variables = [
            compat.tf_variable(w) for w in self._called_layers_weights(backbone, head)
        ]
        self.regularization_losses = [self._weight_decay_loss] if config.weight_decay else []

    @property
    def config(self) -> EncoderConfig:
        """Sizes and preprocessing."""
        return self._config()

    @property
    def layers(self) -> tuple:
        """Backbone and head, whose weights `variables` are."""
        return self._layers()

    @property
    def variable_names(self) -> list[str]:
        """The name of each of `variables`, as in a PyTorch state dict (`torch_names`)."""
        return self._names()

    def _called_layers_weights(self, backbone, head):
        # The call returns features, which the projection does not touch.
        return backbone.trainable_weights

    @tf.function(input_signature=[], autograph=False)
    def _weight_decay_loss(self):
        # Not tf.add_n, which refuses the empty list of a frozen export.
        return self.config.weight_decay * sum(tf.nn.l2_loss(w) for w in self.trainable_variables)

    @tf.function(autograph=False)
    def __call__(self, images, training=False):
        """Images float32 [B, H, W, 3] in [0, 1], at their own size -> features float32 [B, F].

        TF Hub's image-feature-vector convention; normalised inside, not resized, not clipped.
        """
        backbone, _ = self._layers()
        features = backbone(self._network_input(images), training=training)
        return self._called(tf.cast(features, tf.float32))

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="frames")],
        autograph=False,
    )
    def frames(self, frames):
        """Frames uint8 [B, H, W, 3] of any size -> `features` [B, F], `embeddings` [B, D]."""
        return self._encode(self._preprocess(frames))

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, None, 3], tf.uint8, name="clip")],
        autograph=False,
    )
    def clip(self, clip):
        """Clips uint8 [B, T, H, W, 3] -> `features` averaged over T, `embeddings` too (unit norm)."""
        num_frames = _at_least(1, tf.shape(clip)[1])
        outputs = self._encode(self._preprocess(_merge(clip)))
        return self._average(outputs, tf.shape(clip)[0], num_frames)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False
    )
    def image_bytes(self, image_bytes):
        """JPEG or PNG files, string [B] -> `features` [B, F], `embeddings` [B, D].

        Grey and CMYK become RGB, transparency is dropped, 16 bits become the upper 8, and an EXIF
        orientation is not applied: the pixels count as they are stored.
        """
        return self._encode(self._decode(image_bytes))

    def _decode(self, image_bytes):
        """Files, string [n] -> float32 [n, S, S, 3] in [0, 1]; sizes may differ."""
        size = self.config.image_size

        def decode(image):
            pixels = image_files.decode(image)
            return self._preprocess(pixels[tf.newaxis])[0]

        spec = tf.TensorSpec([size, size, 3], tf.float32)
        return tf.map_fn(decode, image_bytes, fn_output_signature=spec)

    def _preprocess(self, frames):
        return augmentation.preprocess_evaluation(
            frames, image_size=self.config.image_size, resize_mode=self.config.resize_mode
        )

    def _network_input(self, images):
        return augmentation.normalize(images)

    def _encode(self, images):
        backbone, _ = self._layers()
        count = tf.shape(images)[0]
        features = backbone(self._network_input(_never_empty(images)), training=False)
        outputs = self._outputs(tf.cast(features, tf.float32))
        return {name: x[:count] for name, x in outputs.items()}

    def _average(self, outputs, num_clips, num_parts):
        """Outputs [B P, n] of parts averaged over P to those of clips [B, n]."""
        means = {
            name: tf.reduce_mean(tf.reshape(x, [num_clips, num_parts, x.shape[-1]]), axis=1)
            for name, x in outputs.items()
        }
        return self._of_clip(means)

    def _called(self, features):
        return features

    def _outputs(self, features):
        _, projection = self._layers()
        return {"features": features, "embeddings": tf.cast(projection(features), tf.float32)}

    def _of_clip(self, means):
        return means | {"embeddings": tf.math.l2_normalize(means["embeddings"], axis=-1)}


class StackEncoderModule(EncoderModule):
    """An encoder of motion: where `EncoderModule` takes an image, it takes six consecutive ones.

    Its first convolution sees the five differences of neighbours, after normalisation
    (`augmentation.stack_of_differences`).
    """

    image_shape = (resnet.STACK_FRAMES, None, None, 3)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, resnet.STACK_FRAMES, None, None, 3], tf.uint8, name="frames")
        ],
        autograph=False,
    )
    def frames(self, frames):
        """Stacks uint8 [B, 6, H, W, 3] of any size -> `features` [B, F], `embeddings` [B, D]."""
        return self._encode(self._split(self._preprocess(_merge(frames))))

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, None, 3], tf.uint8, name="clip")],
        autograph=False,
    )
    def clip(self, clip):
        """Clips uint8 [B, T, H, W, 3], T >= 6, averaged over all T - 5 stacks in them."""
        num_clips, num_frames = tf.shape(clip)[0], tf.shape(clip)[1]
        num_stacks = _at_least(resnet.STACK_FRAMES, num_frames) - (resnet.STACK_FRAMES - 1)
        size = self.config.image_size
        images = tf.reshape(self._preprocess(_merge(clip)), [num_clips, num_frames, size, size, 3])
        starts = tf.range(num_stacks)[:, tf.newaxis]
        stacks = tf.gather(images, starts + tf.range(resnet.STACK_FRAMES), axis=1)
        return self._average(self._encode(_merge(stacks)), num_clips, num_stacks)

    @tf.function(
        input_signature=[tf.TensorSpec([None, resnet.STACK_FRAMES], tf.string, name="image_bytes")],
        autograph=False,
    )
    def image_bytes(self, image_bytes):
        """Stacks of JPEG or PNG files, string [B, 6] -> `features` [B, F], `embeddings` [B, D]."""
        return self._encode(self._split(self._decode(tf.reshape(image_bytes, [-1]))))

    def _network_input(self, images):
        return augmentation.stack_of_differences(augmentation.normalize(images))

    def _split(self, images):
        size = self.config.image_size
        return tf.reshape(images, [-1, resnet.STACK_FRAMES, size, size, 3])


def _merge(frames):
    """[B, T, ...] -> [B T, ...]."""
    return tf.reshape(frames, tf.concat([[-1], tf.shape(frames)[2:]], 0))


def _at_least(minimum: int, num_frames: tf.Tensor) -> tf.Tensor:
    """The number of frames of a clip; an error of the request if it is too small."""
    message = f"a clip needs at least {minimum} frame{'s' if minimum > 1 else ''}"
    with tf.control_dependencies([tf.debugging.assert_greater_equal(num_frames, minimum, message)]):
        return tf.identity(num_frames)


def _never_empty(images: tf.Tensor) -> tf.Tensor:
    """Images [B, ...], or [1, ...] of zeros for B = 0, which fused convolutions refuse on CPUs."""
    missing = tf.cast(tf.equal(tf.shape(images)[0], 0), tf.int32)
    paddings = tf.pad([[missing]], [[0, images.shape.rank - 1], [1, 0]])
    return tf.ensure_shape(tf.pad(images, paddings), images.shape)
