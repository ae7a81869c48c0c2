"""How is a model in TF Serving asked? By its gRPC call Predict or by its REST API.

Frames go to the address given and nowhere else: no proxy that the environment names is used, and no
redirection is followed. An answer is believed no further than its numbers go.
"""

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping

import grpc
import numpy as np
from google.protobuf import message

from tce_tf import errors
from tce_tf.serving import messages

# As many bytes as Python's gRPC allows: its default of 4 MB is a few dozen features of a ResNet-50.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # urllib then raises the answer as an HTTPError


_open = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirection).open


class GrpcModel:
    """A model behind TF Serving's gRPC port (8500).

    Args:
      server: `host:port`, without encryption.
      model: its name in the server.
      version: a version the server has loaded; None for the newest.
      timeout: seconds a request may take; a server that starts up is waited for as long.
    """

    def __init__(self, server: str, model: str, version: int | None = None, timeout: float = 60):
        self._name = f"{server}: {model}"
        self._spec = {"model": model, "version": version}
        self._timeout = timeout
        self._predict = grpc.insecure_channel(server, _CHANNEL).unary_unary(
            messages.PREDICT_METHOD,
            request_serializer=lambda request: request.SerializeToString(),
        )

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a signature; strings are arrays of bytes.

        Raises:
          errors.UserError: no answer, the server's error, or an answer that is no arrays.
        """
        request = messages.predict_request(inputs, signature=signature, **self._spec)
        try:
            response = self._predict(request, timeout=self._timeout, wait_for_ready=True)
        except grpc.RpcError as error:
            raise errors.UserError(
                f"{self._name}: {error.code().name}: {error.details()}"
            ) from error
        try:
            return messages.arrays(messages.PredictResponse.FromString(response).outputs)
        except (ValueError, TypeError, MemoryError, message.DecodeError) as error:
            raise _no_arrays(self._name) from error


class RestModel:
    """A model behind TF Serving's REST port (8501); arguments as `GrpcModel`."""

    def __init__(self, server: str, model: str, version: int | None = None, timeout: float = 60):
        self._name = f"{server}: {model}"
        of_version = "" if version is None else f"/versions/{version}"
        self._url = f"http://{server}/v1/models/{model}{of_version}:predict"
        self._timeout = timeout

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `GrpcModel.predict`; numbers come back as float32."""
        body = {"signature_name": signature, "inputs": {k: _json(v) for k, v in inputs.items()}}
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with _open(request, timeout=self._timeout) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            raise errors.UserError(f"{self._name}: {error.code}: {_reason(error)}") from error
        except OSError as error:
            raise errors.UserError(f"{self._name}: {getattr(error, 'reason', error)}") from error
        except (http.client.HTTPException, ValueError) as error:
            raise errors.UserError(f"{self._name}: no HTTP server: {error!r}") from error
        try:
            outputs = json.loads(body)["outputs"]
            return {name: np.array(rows, np.float32) for name, rows in outputs.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _no_arrays(self._name) from error


def _no_arrays(name: str) -> errors.UserError:
    return errors.UserError(f"{name}: the answer holds no arrays: is it TF Serving?")


def _json(array: np.ndarray):
    if array.dtype != object:
        return array.tolist()
    return [{"b64": base64.b64encode(value).decode()} for value in array]


def _reason(error: urllib.error.HTTPError) -> str:
    """What TF Serving says, or the body of another server's error page as it is."""
    body = error.read().decode(errors="replace")
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body[:200]
