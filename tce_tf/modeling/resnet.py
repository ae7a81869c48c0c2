"""What is the backbone? ResNet-18/34/50/101 as torchvision builds and initialises them.

Three details differ from Keras's own ResNets and change the numbers: padding is symmetric (Keras's
"same" pads a strided convolution at the bottom right only), a bottleneck's stride sits in its 3x3
convolution, and no convolution has a bias. Attribute names are torchvision's, so that a weight's
path here is its key in a PyTorch state dict (see `torch_names`).
"""

import zlib

import keras
import tensorflow as tf

from tce_tf.modeling import normalization

# Blocks in each of the four stages, and whether they are bottlenecks (He et al. 2016, table 1).
STAGES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}
BOTTLENECK_EXPANSION = 4
# What the first convolution sees: an image, or the 5 differences of 6 consecutive ones.
STACK_FRAMES = 6
INPUT_CHANNELS = {"rgb": 3, "stack_of_differences": 3 * (STACK_FRAMES - 1)}


def layer_seed(seed: int, name: str) -> int:
    """A seed of a layer's own, so that equal shapes do not start from equal weights."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF


class Convolution(keras.layers.Layer):
    """A bias-free convolution padded by `kernel_size // 2` on every side: [B,H,W,C] -> [B,h,w,O].

    Initialised from N(0, 2 / (kernel_size^2 O)), He et al. 2015 by fan-out, untruncated.
    """

    def __init__(self, filters, kernel_size, strides=1, *, seed, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.seed = seed

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer=keras.initializers.VarianceScaling(
                2.0, mode="fan_out", distribution="untruncated_normal", seed=self.seed
            ),
        )
        self.built = True

    def call(self, inputs):
        pad = self.kernel_size // 2
        # Where "same" is symmetric anyway it is used: oneDNN has no explicit padding to undo then.
        same = self.strides == 1 or pad == 0
        return tf.nn.conv2d(
            inputs,
            tf.cast(tf.convert_to_tensor(self.kernel), inputs.dtype),
            strides=self.strides,
            padding="SAME" if same else [[0, 0], [pad, pad], [pad, pad], [0, 0]],
        )


class ResidualBlock(keras.layers.Layer):
    """A basic block (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1) added to its shortcut."""

    def __init__(
        self, width, strides, *, bottleneck, project, seed, sync_batch_norm, dtype=None, **kwargs
    ):
        super().__init__(dtype=dtype, **kwargs)

        def batch_norm(name):
            return normalization.BatchNormalization(
                synchronized=sync_batch_norm, dtype=dtype, name=name
            )

        outputs = width * BOTTLENECK_EXPANSION if bottleneck else width
        # (filters, kernel size, stride); a bottleneck strides in its 3x3 ("ResNet v1.5").
        plan = (
            [(width, 1, 1), (width, 3, strides), (outputs, 1, 1)]
            if bottleneck
            else [(width, 3, strides), (outputs, 3, 1)]
        )
        self.depth = len(plan)
        for i, (filters, kernel_size, stride) in enumerate(plan, start=1):
            conv_seed = layer_seed(seed, f"conv{i}")
            setattr(
                self,
                f"conv{i}",
                Convolution(
                    filters, kernel_size, stride, seed=conv_seed, dtype=dtype, name=f"conv{i}"
                ),
            )
            setattr(self, f"bn{i}", batch_norm(f"bn{i}"))
        self.project = project
        if project:
            self.downsample_conv = Convolution(
                outputs,
                1,
                strides,
                seed=layer_seed(seed, "downsample"),
                dtype=dtype,
                name="downsample_conv",
            )
            self.downsample_bn = batch_norm("downsample_bn")

    def call(self, inputs, training=False):
        x = inputs
        for i in range(1, self.depth + 1):
            x = getattr(self, f"conv{i}")(x)
            x = getattr(self, f"bn{i}")(x, training=training)
            if i < self.depth:
                x = tf.nn.relu(x)
        shortcut = inputs
        if self.project:
            shortcut = self.downsample_bn(self.downsample_conv(inputs), training=training)
        return tf.nn.relu(x + shortcut)


class ResNet(keras.layers.Layer):
    """A ResNet without its classifier: normalised images [B, H, W, C] -> features [B, F].

    F is 512 for ResNet-18/34 and 2048 for ResNet-50/101: the global average pool of the last stage.

    Args:
      backbone: one of `STAGES`.
      seed: of the initial weights; each convolution derives its own from it.
      sync_batch_norm: normalise by the batch of all replicas.
      dtype: Keras dtype policy. Features leave in the policy's compute dtype.

    Raises:
      ValueError: unknown backbone.
    """

    def __init__(
        self,
        backbone: str,
        *,
        seed: int = 0,
        sync_batch_norm: bool = False,
        dtype=None,
        name="backbone",
        **kwargs,
    ):
        super().__init__(dtype=dtype, name=name, **kwargs)
        if backbone not in STAGES:
            raise ValueError(f"unknown backbone '{backbone}': choose one of {', '.join(STAGES)}")
        self.backbone = backbone
        depths, bottleneck = STAGES[backbone]
        expansion = BOTTLENECK_EXPANSION if bottleneck else 1
        self.feature_width = 512 * expansion
        self.conv1 = Convolution(
            64, 7, 2, seed=layer_seed(seed, "conv1"), dtype=dtype, name="conv1"
        )
        self.bn1 = normalization.BatchNormalization(
            synchronized=sync_batch_norm, dtype=dtype, name="bn1"
        )
        # One attribute a block: Keras 3 leaves lists of layers out of TensorFlow checkpoints.
        self.depths = depths
        incoming = 64
        for stage, depth in enumerate(depths, start=1):
            width = 64 * 2 ** (stage - 1)
            for i in range(depth):
                strides = 2 if stage > 1 and i == 0 else 1
                block = ResidualBlock(
                    width,
                    strides,
                    bottleneck=bottleneck,
                    project=strides > 1 or incoming != width * expansion,
                    seed=layer_seed(seed, f"layer{stage}.{i}"),
                    sync_batch_norm=sync_batch_norm,
                    dtype=dtype,
                    name=f"layer{stage}_{i}",
                )
                setattr(self, block.name, block)
                incoming = width * expansion

    def blocks(self) -> list[tuple[int, int, ResidualBlock]]:
        """Stage (from 1), position in it (from 0), and block, in order."""
        return [
            (stage, i, getattr(self, f"layer{stage}_{i}"))
            for stage, depth in enumerate(self.depths, start=1)
            for i in range(depth)
        ]

    def call(self, inputs, training=False):
        x = tf.cast(inputs, self.compute_dtype)
        x = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        # Padded with zeros, torch with -inf: equal behind a ReLU.
        x = tf.nn.max_pool2d(
            tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), ksize=3, strides=2, padding="VALID"
        )
        for _, _, block in self.blocks():
            x = block(x, training=training)
        return tf.reduce_mean(x, axis=[1, 2])
