"""Which messages does TF Serving speak? Those of its Predict call and of its warm-up file.

tensorflow-serving-api holds them too, but its versions are bound to TensorFlow's and there is none
for the current stack. Field numbers are those of `tensorflow_serving/apis` (model.proto, predict.proto,
prediction_log.proto). What this project never fills is left out, and a tensor is kept in its
serialized form, so that these messages depend on nothing of TensorFlow's: on the wire a message and
its bytes are the same.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

PACKAGE = "tensorflow.serving"
PREDICT_METHOD = f"/{PACKAGE}.PredictionService/Predict"

_Field = descriptor_pb2.FieldDescriptorProto
_TENSORS = "map<string, bytes>"

# Message -> field -> (number, type): a scalar, a map of tensors, or another message.
_MESSAGES = {
    "Int64Value": {"value": (1, "int64")},  # google.protobuf.Int64Value
    "ModelSpec": {"name": (1, "string"), "version": (2, "Int64Value"), "signature_name": (3, "string")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, _TENSORS)},
    "PredictResponse": {"outputs": (1, _TENSORS), "model_spec": (2, "ModelSpec")},
    "PredictLog": {"request": (1, "PredictRequest"), "response": (2, "PredictResponse")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}  # fmt: skip
_SCALARS = {"int64": _Field.TYPE_INT64, "string": _Field.TYPE_STRING}


def _declare() -> dict[str, type]:
    """The classes of `_MESSAGES`, in a pool of their own beside tensorflow-serving-api's."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tce_tf/serving/messages.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
                continue
            field.type = _Field.TYPE_MESSAGE
            if kind != _TENSORS:
                field.type_name = f".{PACKAGE}.{kind}"
                continue
            entry = message.nested_type.add(name=f"{field_name.capitalize()}Entry")
            entry.options.map_entry = True
            for i, (part, of) in enumerate((("key", "STRING"), ("value", "BYTES")), start=1):
                of = getattr(_Field, f"TYPE_{of}")
                entry.field.add(name=part, number=i, label=_Field.LABEL_OPTIONAL, type=of)
            field.label = _Field.LABEL_REPEATED
            field.type_name = f".{PACKAGE}.{name}.{entry.name}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in _MESSAGES
    }


_classes = _declare()
PredictRequest = _classes["PredictRequest"]
PredictResponse = _classes["PredictResponse"]
PredictionLog = _classes["PredictionLog"]


def predict_request(
    inputs: Mapping[str, np.ndarray], *, model: str, signature: str, version: int | None = None
):
    """A PredictRequest to a signature of a model, of its newest version unless one is named."""
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, array in inputs.items():
        request.inputs[name] = tf.make_tensor_proto(array).SerializeToString()
    return request


def arrays(tensors: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """The arrays in `PredictRequest.inputs` or `PredictResponse.outputs`."""
    return {
        name: tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor))
        for name, tensor in tensors.items()
    }
