"""What sits on the features? A projection to unit-norm embeddings, and a rotation classifier."""

import keras
import tensorflow as tf

from tce_tf.modeling import normalization, resnet

NUM_ROTATIONS = 4


class Linear(keras.layers.Dense):
    """A dense layer that starts as `torch.nn.Linear` does: weights and bias U(-1, 1)/sqrt(inputs).

    Keras would start from Glorot uniform and a zero bias.
    """

    def __init__(self, units, *, seed, **kwargs):
        super().__init__(units, **kwargs)
        self.seed = seed

    def build(self, input_shape):
        bound = input_shape[-1] ** -0.5
        for attribute in ("kernel_initializer", "bias_initializer"):
            seed = resnet.layer_seed(self.seed, attribute)
            setattr(self, attribute, keras.initializers.RandomUniform(-bound, bound, seed=seed))
        super().build(input_shape)


class ProjectionHead(keras.layers.Layer):
    """Features [B, F] -> embeddings [B, D] of unit L2 norm, in at least float32."""

    def __init__(self, width: int = 128, *, seed: int = 0, dtype=None, name="projection", **kwargs):
        super().__init__(dtype=dtype, name=name, **kwargs)
        self.width = width
        self.linear = Linear(
            width, seed=resnet.layer_seed(seed, "fc_contrastive"), dtype=dtype, name="linear"
        )

    def call(self, inputs):
        projected = self.linear(inputs)
        if projected.dtype in (tf.float16, tf.bfloat16):
            projected = tf.cast(projected, tf.float32)
        return tf.math.l2_normalize(projected, axis=-1)


class RotationHead(keras.layers.Layer):
    """Features [B, F] -> logits [B, 4] of the rotation by 0, 90, 180 or 270 degrees.

    Two hidden layers of 200 units, each linear, ReLU, then batch norm, as published.
    """

    def __init__(
        self,
        hidden: int = 200,
        *,
        seed: int = 0,
        sync_batch_norm: bool = False,
        dtype=None,
        name="rotation",
        **kwargs,
    ):
        super().__init__(dtype=dtype, name=name, **kwargs)
        for i, units in enumerate((hidden, hidden, NUM_ROTATIONS), start=1):
            linear_seed = resnet.layer_seed(seed, f"fc_rotation_{i}")
            setattr(
                self, f"linear{i}", Linear(units, seed=linear_seed, dtype=dtype, name=f"linear{i}")
            )
        for i in (1, 2):
            bn = normalization.BatchNormalization(
                synchronized=sync_batch_norm, dtype=dtype, name=f"bn{i}"
            )
            setattr(self, f"bn{i}", bn)

    def call(self, inputs, training=False):
        x = self.bn1(tf.nn.relu(self.linear1(inputs)), training=training)
        x = self.bn2(tf.nn.relu(self.linear2(x)), training=training)
        logits = self.linear3(x)
        return tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits
