"""How fast does an exported encoder answer? The first request, and images/s beside other runtimes.

    python experiments/benchmarks/bench_serving.py

The first request is timed through TensorFlow's C library in fresh processes, with the export's
warm-up requests played before and without. Images/s compares the network alone (float images in,
features out) as exported, with its weights as constants (`export --frozen`), and, where they are
installed, in ONNX Runtime and OpenVINO on the same weights: pip install onnxruntime openvino tf2onnx.
"""

import importlib.util
import os
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import harness
import numpy as np

sys.path.insert(0, os.path.join(harness.ROOT, "tests", "serving"))
import c_loader  # noqa: E402 -- a helper of the tests

BATCHES = (1, 8, 16, 32)


def export(folder: str, backbone: str, image_size: int) -> str:
    """Exports an encoder with fresh weights; the path of its version."""
    from tce_tf.serving import encoder_module, loader
    from tce_tf.serving import export as exporting

    config = encoder_module.EncoderConfig(backbone, image_size=image_size)
    return exporting.export_encoder(loader.build_encoder(config, seed=0), folder)


def read_warmup(path: str) -> list[tuple[str, dict]]:
    """Signature and inputs of every warm-up request of an export."""
    from tce_tf.serving import messages, warmup

    requests = warmup.read(path)
    return [(r.model_spec.signature_name, messages.arrays(r.inputs)) for r in requests]


def first_calls(
    path: str, warmup: list[tuple[str, dict]], request: tuple[str, dict]
) -> list[float]:
    """Loads the model, plays the warm-up and sends a request six times: seconds of each."""
    model = c_loader.SavedModel(path)
    for signature, inputs in warmup:
        model.run(signature, **inputs)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        model.run(request[0], **request[1])
        seconds.append(time.perf_counter() - started)
    return seconds


def measure_first_calls(path: str, rounds: int) -> tuple[dict, dict]:
    """Median milliseconds of the first and of later requests, cold and warm, by signature."""
    warmup = read_warmup(path)
    rows, ratios = [], {}
    for request in warmup:
        medians = {}
        for name, played in (("cold", []), ("warm", warmup)):
            runs = [harness.in_process(first_calls, path, played, request).value
                    for _ in range(rounds)]  # fmt: skip
            medians[name] = 1e3 * float(np.median([run[0] for run in runs]))
            later = 1e3 * float(np.median([run[1:] for run in runs]))
        rows.append((request[0], medians["cold"], medians["warm"], later))
        ratios[f"cold_over_warm_{request[0]}"] = medians["cold"] / medians["warm"]
        ratios[f"warm_over_later_{request[0]}"] = medians["warm"] / later
    harness.print_table(
        ("signature", "first ms, cold", "first ms, warmed up", "later ms"), rows,
        "First request of one image (clip: one frame)",
    )  # fmt: skip
    return ratios


def contenders(path: str, image_size: int) -> dict:
    """Runtime -> function of images float32 [B, S, S, 3] that returns features."""
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    loaded = tf.saved_model.load(path)
    spec = tf.TensorSpec([None, image_size, image_size, 3], tf.float32, name="images")
    call = tf.function(lambda images: loaded(images, training=False), input_signature=[spec])
    frozen = convert_to_constants.convert_variables_to_constants_v2(call.get_concrete_function())
    found = {
        "SavedModel": lambda images: call(tf.constant(images)).numpy(),
        "SavedModel, frozen": lambda images: frozen(tf.constant(images))[0].numpy(),
    }
    installed = {name for name in ("tf2onnx", "onnxruntime", "openvino")
                 if importlib.util.find_spec(name)}  # fmt: skip
    if {"tf2onnx", "onnxruntime"} <= installed:
        import onnxruntime
        import tf2onnx

        model, _ = tf2onnx.convert.from_function(call, [spec], opset=17)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        found["ONNX Runtime"] = lambda images: session.run(None, {name: images})[0]
        if "openvino" in installed:
            found["OpenVINO"] = openvino_runner(model)
    missing = {"tf2onnx", "onnxruntime", "openvino"} - installed
    if missing:
        print(f"not installed, so not compared: {', '.join(sorted(missing))}")
    return found


def openvino_runner(onnx_model):
    """The same ONNX graph in OpenVINO, all cores on one request."""
    import openvino

    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(onnx_model.SerializeToString())
        file.flush()
        model = openvino.Core().read_model(file.name)
        # Left to itself it computes in bfloat16 where the processor can.
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(model, "CPU", options)
    return lambda images: compiled(images)[0]


def measure_throughput(path: str, image_size: int, batches, rounds: int) -> dict[str, float]:
    """Prints images/s of every runtime at every batch size; ratios to the plain SavedModel."""
    runtimes = contenders(path, image_size)
    rng = np.random.default_rng(0)
    rows, ratios = [], {}
    for batch in batches:
        images = rng.random((batch, image_size, image_size, 3), np.float32)
        expected = runtimes["SavedModel"](images)
        for name, run in runtimes.items():
            np.testing.assert_allclose(
                run(images), expected, atol=1e-3 * expected.max(), err_msg=name
            )
        repeats = max(1, 16 // batch)  # a timing should not be of a few milliseconds

        def call(run, images=images, repeats=repeats):
            for _ in range(repeats):
                run(images)

        timings = harness.interleave(
            {name: lambda run=run, call=call: call(run) for name, run in runtimes.items()},
            rounds=rounds, warmup=2,
        )  # fmt: skip
        rows.append((batch, *(batch * repeats / t.median for t in timings.values())))
        for name, timing in timings.items():
            if name != "SavedModel":
                key = name.lower().replace("savedmodel, ", "").replace(" ", "_")
                ratios[f"speed_to_{key}_{batch}"] = harness.ratio(timing, timings["SavedModel"])
    harness.print_table(("batch", *runtimes), rows, "Images/s, network alone")
    return ratios


def main() -> None:
    """Prints both tables and the goals."""
    quick = harness.parser(__doc__).parse_args().quick
    size, rounds = (32, 2) if quick else (224, 9)
    with tempfile.TemporaryDirectory() as folder:
        path = harness.in_process(export, folder, "resnet18", size).value
        ratios = measure_first_calls(path, rounds=2 if quick else 5)
        ratios |= measure_throughput(path, size, BATCHES[:2] if quick else BATCHES, rounds)
    goals = {"cold_over_warm_serving_default": 2.0, "warm_over_later_serving_default": 2.0}
    if "speed_to_onnx_runtime_16" in ratios:
        goals["speed_to_onnx_runtime_16"] = 0.9
    harness.finish(
        ratios, goals, at_most=["warm_over_later_serving_default"],
        packages=["tf2onnx", "onnxruntime", "openvino"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
