"""Does the client speak TF Serving's protocols? With a stub that the exported model answers for."""

import base64
import http.server
import json
import pathlib
import threading
from concurrent import futures

import c_loader
import grpc
import numpy as np
import pytest
from embedded import embed

from tce_tf import command
from tce_tf.data import synthetic
from tce_tf.serving import client, loader, messages

# Real videos that break naive readers; not part of the repository.
ODD = pathlib.Path(__file__).parents[2] / ".." / "shared" / "data" / "odd"


class Stub:
    """TF Serving's Predict and `:predict` for one model, answered through TensorFlow's C library."""

    def __init__(self, path):
        self.path, self.seen = path, []
        self.server = grpc.server(
            futures.ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", -1)]
        )
        self.server.add_generic_rpc_handlers([_Handler(self.predict)])
        self.grpc = f"localhost:{self.server.add_insecure_port('localhost:0')}"
        self.server.start()
        self.http = http.server.HTTPServer(("localhost", 0), _rest(self))
        self.rest = f"localhost:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, name, signature, inputs):
        self.seen.append((name, signature, {k: v.shape for k, v in inputs.items()}))
        if name != "tce":
            return f"Servable not found for request: Latest({name})"
        return c_loader.answers_alone(self.path, [(signature, inputs)])[0]

    def predict(self, request, context):
        spec = request.model_spec
        answer = self.answer(spec.name, spec.signature_name, messages.arrays(request.inputs))
        if isinstance(answer, str):
            context.abort(grpc.StatusCode.NOT_FOUND, answer)
        import tensorflow as tf

        response = messages.PredictResponse()
        for name, rows in answer.items():
            response.outputs[name] = tf.make_tensor_proto(rows).SerializeToString()
        return response

    def stop(self):
        self.server.stop(None)
        self.http.shutdown()
        self.http.server_close()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, predict):
        self.predict = predict

    def service(self, details):
        assert details.method == "/tensorflow.serving.PredictionService/Predict"
        return grpc.unary_unary_rpc_method_handler(
            self.predict,
            request_deserializer=messages.PredictRequest.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )


def _rest(stub):
    class Rest(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = self.path.removeprefix("/v1/models/").removesuffix(":predict")
            inputs = {
                key: np.array([base64.b64decode(value["b64"]) for value in values], object)
                for key, values in body["inputs"].items()
            }
            answer = stub.answer(name, body["signature_name"], inputs)
            failed = isinstance(answer, str)
            content = {"error": answer} if failed else {
                "outputs": {key: rows.tolist() for key, rows in answer.items()}
            }  # fmt: skip
            self.send_response(404 if failed else 200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    return Rest


@pytest.fixture(name="stub", scope="module")
def _stub(exported_encoder):
    stub = Stub(exported_encoder[1])
    yield stub
    stub.stop()


@pytest.fixture(name="clip", scope="module")
def _clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    synthetic.make_clips(str(folder), num_videos=8, num_frames=10)
    return str(sorted(folder.glob("*/*.mp4"))[0])


class Elsewhere:
    """A server that counts who asks it, and answers the same to all."""

    def __init__(self, status=200, body=b"", headers=()):
        outer, self.asked = self, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer.asked += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                for header in headers:
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_CONNECT = do_POST

            def log_message(self, *_):
                pass

        self.http = http.server.HTTPServer(("localhost", 0), Handler)
        self.address = f"localhost:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def run(*arguments):
    """The exit code of the command, 0 where it just returns."""
    try:
        command.run(client.main, client.define_flags, arguments)
    except SystemExit as end:
        return end.code
    return 0


def check_same_numbers(stub, protocol, clip, encoder, folder, *, batch_size, requests):
    """The client's numbers are those of `embed` in Python."""
    output = str(folder / "client.npz")
    flags = [f"--server={getattr(stub, protocol)}", f"--protocol={protocol}", "--model=tce"]
    stub.seen.clear()
    flags += [f"--input={clip}", f"--output={output}", f"--batch_size={batch_size}"]
    assert run(*flags) == 0
    expected = embed(loader.load_encoder(encoder), str(clip), folder / "python.npz")
    with np.load(output) as found:
        for name in ("names", "timestamps"):
            np.testing.assert_array_equal(found[name], expected[name])
        for name in ("features", "embeddings"):
            atol = 1e-5 * np.abs(expected[name]).max()
            np.testing.assert_allclose(found[name], expected[name], atol=atol)
    assert [name for name, *_ in stub.seen] == ["tce"] * requests
    return expected


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_video_gets_the_numbers_that_embed_gives(
    protocol, stub, clip, exported_encoder, tmp_path
):
    check_same_numbers(
        stub, protocol, clip, exported_encoder[1], tmp_path, batch_size=6, requests=2
    )


@pytest.mark.skipif(not ODD.is_dir(), reason=f"no real videos in {ODD}")
@pytest.mark.parametrize(
    ("protocol", "name", "size", "frames"),
    [
        ("grpc", "part_0.mp4", (256, 340), 32),  # irregular time stamps
        ("rest", "video_90.mov", (568, 320), 3),  # stored lying down
    ],
)
def test_odd_real_videos_get_them_too(
    protocol, name, size, frames, stub, exported_encoder, tmp_path
):
    rows = check_same_numbers(
        stub, protocol, ODD / name, exported_encoder[1], tmp_path, batch_size=32, requests=1
    )
    assert len(rows["timestamps"]) == frames
    shape = {"frames": (frames, *size, 3)} if protocol == "grpc" else {"image_bytes": (frames,)}
    assert [shapes for *_, shapes in stub.seen] == [shape]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_what_goes_wrong_is_one_line(protocol, stub, clip, tmp_path, capsys):
    flags = [f"--protocol={protocol}", f"--output={tmp_path}/clip.npz", "--timeout=2"]
    server = f"--server={getattr(stub, protocol)}"
    assert run(*flags, server, "--model=other", f"--input={clip}") == 1
    error = capsys.readouterr().err
    assert "other" in error and "Servable not found" in error and error.count("\n") == 1
    assert run(*flags, "--server=localhost:1", "--model=tce", f"--input={clip}") == 1
    assert capsys.readouterr().err.startswith("error: localhost:1: tce: ")
    (tmp_path / "no.mp4").write_bytes(b"no video")
    assert run(*flags, server, "--model=tce", f"--input={tmp_path}/no.mp4") == 1
    assert f"error: --input={tmp_path}/no.mp4: " in capsys.readouterr().err
    assert run(*flags, server, f"--input={clip}") == 2


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_frames_pass_no_proxy_that_the_environment_names(
    protocol, stub, clip, tmp_path, monkeypatch
):
    with Elsewhere() as proxy:
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        flags = [f"--protocol={protocol}", f"--server={getattr(stub, protocol)}", "--model=tce"]
        assert run(*flags, f"--input={clip}", f"--output={tmp_path}/clip.npz") == 0
        assert proxy.asked == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_server_cannot_send_the_client_on(status, clip, tmp_path, capsys):
    with Elsewhere(body=b'{"outputs": {}}') as other:
        to = [("Location", f"http://{other.address}/v1/models/tce:predict")]
        with Elsewhere(status, headers=to) as server:
            flags = ["--protocol=rest", f"--server={server.address}", "--model=tce"]
            assert run(*flags, f"--input={clip}", f"--output={tmp_path}/clip.npz") == 1
            assert server.asked == 1
        assert other.asked == 0
    assert f"error: {server.address}: tce: {status}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b'{"outputs": [1]}', b'{"outputs": {"features": "x"}}', b"[" * 10**5,
     b'{"outputs": {"features": [[1, 2], [3]]}}'],
)  # fmt: skip
def test_an_answer_without_arrays_is_one_line(body, clip, tmp_path, capsys):
    with Elsewhere(body=body) as server:
        flags = ["--protocol=rest", f"--server={server.address}", "--model=tce"]
        assert run(*flags, f"--input={clip}", f"--output={tmp_path}/clip.npz") == 1
    error = capsys.readouterr().err
    assert error.endswith("the answer holds no arrays: is it TF Serving?\n"), error


def test_a_grpc_server_is_believed_no_further(clip, tmp_path, capsys):
    """Bytes that are no message; a tensor that claims more than there is; rows for other frames."""
    import tensorflow as tf

    small = tf.make_tensor_proto(np.zeros((3, 2), np.float32))
    bomb = tf.make_tensor_proto(np.zeros((1, 2), np.float32))
    bomb.tensor_shape.dim[0].size = 2**50
    answers = []
    for tensor in (bomb, small):
        response = messages.PredictResponse()
        for name in ("features", "embeddings"):
            response.outputs[name] = tensor.SerializeToString()
        answers.append(response.SerializeToString())
    expected = ["no arrays", "no arrays", r"answers 10 frames by features of shape (3, 2)"]
    for answer, message in zip([b"\xff\xff", *answers], expected, strict=True):
        handler = grpc.unary_unary_rpc_method_handler(lambda *_, answer=answer: answer)
        server = grpc.server(futures.ThreadPoolExecutor(1))
        calls = {"Predict": handler}
        service = grpc.method_handlers_generic_handler(
            f"{messages.PACKAGE}.PredictionService", calls
        )
        server.add_generic_rpc_handlers([service])
        address = f"localhost:{server.add_insecure_port('localhost:0')}"
        server.start()
        flags = [f"--server={address}", "--model=tce", f"--input={clip}"]
        assert run(*flags, f"--output={tmp_path}/clip.npz") == 1
        server.stop(None)
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
