"""What makes a server's first request as fast as the next? Requests it plays when it loads a model.

TF Serving reads them from `assets.extra/tf_serving_warmup_requests`: the first call of a signature
optimises its graph, and the first one of a shape builds oneDNN's kernels for it.
"""

import os

import numpy as np
import tensorflow as tf

from tce_tf.modeling import resnet
from tce_tf.serving import encoder_module, messages

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def make_requests(config: encoder_module.EncoderConfig, model: str) -> list:
    """One PredictRequest a signature, with one image (stack, clip) of noise slightly too large.

    Args:
      config: of the exported module.
      model: the name that a server gives the model; warm-up works under any.
    """
    is_stack = config.input_mode == "stack_of_differences"
    stack = resnet.STACK_FRAMES if is_stack else 1
    # Scaled down to the crop, as most footage is: 256 for 224.
    height, width = config.image_size * 8 // 7, config.image_size * 32 // 21
    pixels = np.random.default_rng(0).integers(0, 256, (stack, height, width, 3), dtype=np.uint8)
    files = np.array([tf.io.encode_jpeg(frame).numpy() for frame in pixels], object)
    inputs = {
        "serving_default": {"image_bytes": files[np.newaxis] if is_stack else files},
        "frames": {"frames": pixels[np.newaxis] if is_stack else pixels},
        "clip": {"clip": pixels[np.newaxis]},
    }
    return [
        messages.predict_request(tensors, model=model, signature=signature)
        for signature, tensors in inputs.items()
    ]


def write(folder: str, config: encoder_module.EncoderConfig, model: str) -> None:
    """Writes the requests into the local folder of a SavedModel."""
    os.makedirs(os.path.join(folder, os.path.dirname(FILE)), exist_ok=True)
    with tf.io.TFRecordWriter(os.path.join(folder, FILE)) as writer:
        for request in make_requests(config, model):
            log = messages.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def read(folder: str) -> list:
    """The PredictRequests in the folder of a SavedModel."""
    records = tf.data.TFRecordDataset(os.path.join(folder, FILE)).as_numpy_iterator()
    return [messages.PredictionLog.FromString(record).predict_log.request for record in records]
