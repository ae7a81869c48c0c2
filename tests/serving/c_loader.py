"""What does a SavedModel answer through TensorFlow's C library alone, as TF Serving loads it?

    model = c_loader.SavedModel("exported/ucf101/1")
    outputs = model.run("serving_default", image_bytes=np.array([jpeg], object))

Needs NumPy and the two libraries in TensorFlow's wheel; Python TensorFlow is never imported, so
nothing that it or an add-on would register is there.
"""

import ctypes
import importlib.util
import os
import pickle
import subprocess
import sys
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p

import numpy as np

_STRING = 7
# tensorflow/core/framework/types.proto
_DTYPES = {1: np.float32, 3: np.int32, 4: np.uint8, _STRING: object, 9: np.int64}
_STRING_BYTES = 24  # sizeof(TF_TString)


class _Buffer(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p)]


class _Output(ctypes.Structure):
    _fields_ = [("operation", c_void_p), ("index", c_int)]


def _load_library():
    folder = importlib.util.find_spec("tensorflow").submodule_search_locations[0]
    # The second needs the symbols of the first.
    ctypes.CDLL(os.path.join(folder, "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(os.path.join(folder, "libtensorflow_cc.so.2"))
    for name, result, arguments in (
        ("TF_NewStatus", c_void_p, []),
        ("TF_GetCode", c_int, [c_void_p]),
        ("TF_Message", c_char_p, [c_void_p]),
        ("TF_DeleteStatus", None, [c_void_p]),
        ("TF_NewSessionOptions", c_void_p, []),
        ("TF_NewGraph", c_void_p, []),
        ("TF_NewBuffer", POINTER(_Buffer), []),
        ("TF_LoadSessionFromSavedModel", c_void_p,
         [c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, POINTER(_Buffer),
          c_void_p]),
        ("TF_GraphOperationByName", c_void_p, [c_void_p, c_char_p]),
        ("TF_AllocateTensor", c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
        ("TF_DeleteTensor", None, [c_void_p]),
        ("TF_TensorType", c_int, [c_void_p]),
        ("TF_NumDims", c_int, [c_void_p]),
        ("TF_Dim", c_int64, [c_void_p, c_int]),
        ("TF_TensorData", c_void_p, [c_void_p]),
        ("TF_TensorByteSize", c_size_t, [c_void_p]),
        ("TF_StringInit", None, [c_void_p]),
        ("TF_StringCopy", None, [c_void_p, c_char_p, c_size_t]),
        ("TF_StringDealloc", None, [c_void_p]),
        ("TF_SessionRun", None,
         [c_void_p, c_void_p, POINTER(_Output), POINTER(c_void_p), c_int, POINTER(_Output),
          POINTER(c_void_p), c_int, c_void_p, c_int, c_void_p, c_void_p]),
    ):  # fmt: skip
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def answers_alone(path: str, requests: list[tuple[str, dict]]) -> list[dict | str]:
    """What a fresh process without Python TensorFlow answers to (signature, inputs), in turn.

    A request that fails is answered by the error's text.

    Raises:
      AssertionError: the process ended badly, or held more of TensorFlow than its C library.
    """
    return answers_and_peak(path, requests)[0]


def answers_and_peak(path: str, requests: list[tuple[str, dict]]) -> tuple[list[dict | str], int]:
    """As `answers_alone`, and the most memory that the process held, in bytes."""
    done = subprocess.run(
        [sys.executable, __file__, path],
        input=pickle.dumps(requests), capture_output=True, cwd="/", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    answers, loaded, peak = pickle.loads(done.stdout)
    assert loaded == ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"]
    return answers, peak


class SavedModel:
    """A SavedModel in a session of the C library.

    Attributes:
      signatures: name -> (inputs, outputs), each a dict of name -> (tensor name, dtype code).

    Raises:
      RuntimeError: what TensorFlow says.
    """

    def __init__(self, path: str):
        self._c = c = _load_library()
        self._graph = c.TF_NewGraph()
        meta_graph = c.TF_NewBuffer()
        with _Status(c) as status:
            self._session = c.TF_LoadSessionFromSavedModel(
                c.TF_NewSessionOptions(), None, path.encode(), (c_char_p * 1)(b"serve"), 1,
                self._graph, meta_graph, status,
            )  # fmt: skip
        meta = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        self.signatures = _signatures(meta)

    def run(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        """The numeric outputs of a signature; an input of strings is an array of bytes."""
        wanted, offered = self.signatures[signature]
        if set(wanted) != set(inputs):
            raise RuntimeError(f"{signature} takes {sorted(wanted)}, not {sorted(inputs)}")
        c = self._c
        feeds = (_Output * len(wanted))(*(self._output(name) for name, _ in wanted.values()))
        tensors = [self._tensor(inputs[name], dtype) for name, (_, dtype) in wanted.items()]
        fetches = (_Output * len(offered))(*(self._output(name) for name, _ in offered.values()))
        results = (c_void_p * len(offered))()
        try:
            with _Status(c) as status:
                c.TF_SessionRun(
                    self._session, None, feeds, (c_void_p * len(tensors))(*tensors), len(tensors),
                    fetches, results, len(offered), None, 0, None, status,
                )  # fmt: skip
        finally:
            for tensor in tensors:
                self._delete(tensor)
        return {name: self._array(tensor) for name, tensor in zip(offered, results, strict=True)}

    def _output(self, name: str) -> _Output:
        operation, _, index = name.partition(":")
        return _Output(self._c.TF_GraphOperationByName(self._graph, operation.encode()), int(index))

    def _tensor(self, values, dtype: int):
        array = np.ascontiguousarray(values, _DTYPES[dtype])
        size = _STRING_BYTES * array.size if dtype == _STRING else array.nbytes
        dims = (c_int64 * array.ndim)(*array.shape)
        tensor = self._c.TF_AllocateTensor(dtype, dims, array.ndim, size)
        data = self._c.TF_TensorData(tensor)
        if dtype != _STRING:
            ctypes.memmove(data, array.ctypes.data, size)
            return tensor
        for i, value in enumerate(array.flat):
            self._c.TF_StringInit(data + i * _STRING_BYTES)
            self._c.TF_StringCopy(data + i * _STRING_BYTES, value, len(value))
        return tensor

    def _array(self, tensor) -> np.ndarray:
        c = self._c
        shape = [c.TF_Dim(tensor, i) for i in range(c.TF_NumDims(tensor))]
        raw = ctypes.string_at(c.TF_TensorData(tensor), c.TF_TensorByteSize(tensor))
        array = np.frombuffer(raw, _DTYPES[c.TF_TensorType(tensor)]).reshape(shape)
        c.TF_DeleteTensor(tensor)
        return array

    def _delete(self, tensor) -> None:
        if self._c.TF_TensorType(tensor) == _STRING:
            data = self._c.TF_TensorData(tensor)
            for offset in range(0, self._c.TF_TensorByteSize(tensor), _STRING_BYTES):
                self._c.TF_StringDealloc(data + offset)
        self._c.TF_DeleteTensor(tensor)


class _Status:
    """A TF_Status that raises what it reports."""

    def __init__(self, library):
        self._c = library

    def __enter__(self):
        self._status = self._c.TF_NewStatus()
        return self._status

    def __exit__(self, *exception):
        code, message = self._c.TF_GetCode(self._status), self._c.TF_Message(self._status)
        self._c.TF_DeleteStatus(self._status)
        if code:
            raise RuntimeError(f"code {code}: {message.decode(errors='replace')}")


def _signatures(meta_graph: bytes) -> dict[str, tuple[dict, dict]]:
    """`MetaGraphDef.signature_def`, read by field numbers: its classes live in Python TensorFlow."""

    def tensors(entries):
        infos = {}
        for entry in entries:
            key, info = _fields(entry)[1][0], _fields(_fields(entry)[2][0])
            infos[key.decode()] = (info[1][0].decode(), info[2][0])
        return infos

    found = {}
    for entry in _fields(meta_graph)[5]:
        name, signature = _fields(entry)[1][0].decode(), _fields(_fields(entry)[2][0])
        if not name.startswith("__"):  # what TensorFlow itself runs when it loads
            found[name] = (tensors(signature[1]), tensors(signature[2]))
    return found


def _fields(message: bytes) -> dict[int, list]:
    """Field number -> values (int or bytes) of a protocol buffer message without fixed32/64."""

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    found, at = {}, 0
    while at < len(message):
        key = varint()
        value = varint()
        if key & 7 == 2:  # what was read is a length
            value, at = message[at : at + value], at + value
        found.setdefault(key >> 3, []).append(value)
    return found


def _main(path: str) -> None:
    requests = pickle.load(sys.stdin.buffer)
    model, answers = SavedModel(path), []
    for signature, inputs in requests:
        try:
            answers.append(model.run(signature, **inputs))
        except RuntimeError as error:
            answers.append(str(error))
    with open("/proc/self/maps", encoding="utf-8") as file:
        files = {os.path.basename(line.split()[-1]) for line in file if "tensorflow" in line}
    loaded = sorted(files | {name for name in sys.modules if name.startswith("tensorflow")})
    with open("/proc/self/status", encoding="utf-8") as file:  # rusage counts the parent's too
        (peak,) = [int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")]
    pickle.dump((answers, loaded, peak), sys.stdout.buffer)


if __name__ == "__main__":
    _main(*sys.argv[1:])
