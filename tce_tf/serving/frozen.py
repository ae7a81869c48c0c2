"""How does an export answer single images faster? With its weights as constants, for servers alone.

TensorFlow folds and reorders constant weights once, variable ones in every call: 1.2 to 1.4 times
the images/s at batch 1, next to nothing at batch 16 (BUILD_NOTES.md). There is nothing left to train.
"""

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from tce_tf.serving import encoder_module


def freeze(module: encoder_module.EncoderModule) -> encoder_module.EncoderModule:
    """The three signatures of a module over a copy of its weights that nothing changes any more.

    Its `variables` and losses are empty, and it cannot be called. The constants lie in one function
    that all signatures share, so that the export is no larger.
    """
    size = module.config.image_size
    spec = tf.TensorSpec([None, *module.image_shape[:-3], size, size, 3], tf.float32)
    encode = tf.function(
        module._encode, input_signature=[spec], autograph=False
    ).get_concrete_function()
    constant = convert_to_constants.convert_variables_to_constants_v2(encode)
    names = sorted(encode.structured_outputs)  # the order of a function's flat outputs

    frozen = type(module)(module.config, *module.layers)
    frozen._encode = lambda images: dict(zip(names, constant(images), strict=True))
    frozen.variables, frozen.trainable_variables, frozen.regularization_losses = [], [], []
    return frozen
