"""Does a user's fine-tuning work from the command line? Run, kill, resume, refusals."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import small_network
import tensorflow as tf

from tce_tf import command, export
from tce_tf.data import augmentation, shard_reader, video_frames
from tce_tf.modeling import classifier, resnet
from tce_tf.serving import finetuned, loader, messages, warmup

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "serving"))
import c_loader  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Two blocks: what goes on around the network is tested, and each run is traced anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)
        yield


def start(*flags):
    return subprocess.Popen(
        [sys.executable, small_network.__file__, "finetune", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


@pytest.fixture(name="flags")
def _flags(synthetic_shards):
    return [
        f"--train={synthetic_shards['train']}", f"--test={synthetic_shards['test']}",
        "--encoder=none", "--image_size=32", "--batch_size=8", "--epochs=2", "--test_frames=2",
        "--decay_epochs=", "--log_every=1", "--checkpoint_every=2",
    ]  # fmt: skip


def test_a_killed_run_ends_as_one_never_stopped(flags, tmp_path):
    code, stdout, stderr = finish(start(*flags, f"--workdir={tmp_path}/whole"))
    assert code == 0, stderr
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert f"top-1 {100 * results['top1']:.1f} %" in stdout and "at step 8" in stdout

    page = (tmp_path / "whole" / "report.html").read_text()
    assert f"{100 * results['top1']:.1f}" in page and "ResNet-18, pre-trained on UCF101" in page
    assert page.count("data:image/png;base64,") == 2 and "http" not in page

    killed = start(*flags, f"--workdir={tmp_path}/killed")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert killed.poll() is None, finish(killed)[2]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    finish(killed)
    code, _, stderr = finish(
        start(*flags, f"--workdir={tmp_path}/killed", f"--export_dir={tmp_path}/actions")
    )
    assert code == 0 and "resumed from step" in stderr
    lines = {
        name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("whole", "killed")
    }
    for name in ("step", "loss", "accuracy"):
        assert [x[name] for x in lines["whole"]] == [x[name] for x in lines["killed"]]
    first, second = (
        tf.train.load_checkpoint(str(tmp_path / name / "checkpoints" / "ckpt-8"))
        for name in ("whole", "killed")
    )
    for name in first.get_variable_to_shape_map():
        if name.startswith(("model", "optimizer")):
            np.testing.assert_array_equal(first.get_tensor(name), second.get_tensor(name))
    again = json.loads((tmp_path / "killed" / "results.json").read_text())
    assert again["top1"] == results["top1"] and again["confusion"] == results["confusion"]
    check_export(tmp_path / "actions" / "1", tmp_path / "killed", again, flags[1])
    check_later_exports(tmp_path / "killed", tmp_path / "later", again["best"])


def check_export(path, workdir, results, test_flag):
    """The export answers through TensorFlow's C library as the run's last checkpoint does."""
    reader = shard_reader.ShardReader([test_flag.removeprefix("--test=")])
    names = (path / "assets" / "class_names.txt").read_text(encoding="utf-8").splitlines()
    assert names == reader.class_names and len(names) == 8
    videos = [v["frames"].numpy() for v in video_frames.frames_dataset(reader, frames_per_video=2)]
    requests = [("frames", {"frames": frames}) for frames in videos]
    pngs = [tf.io.encode_png(frame).numpy() for frame in videos[0]]
    requests.append(("serving_default", {"image_bytes": np.array(pngs, object)}))
    requests.append(("clip", {"clip": videos[0][np.newaxis]}))
    requests += [
        (r.model_spec.signature_name, messages.arrays(r.inputs)) for r in warmup.read(str(path))
    ]
    answers = c_loader.answers_alone(str(path), requests)
    assert all(set(answer) == {"logits", "probabilities"} for answer in answers)
    *of_videos, of_pngs, of_clip = answers[:-3]

    model = classifier.ActionClassifier(num_classes=8)
    model.initialize(32)
    layers = {"backbone": model.backbone, "classifier": model.classifier}
    loader.restore_layers(str(workdir / "checkpoints" / "ckpt-8"), **layers)
    for frames, answer in zip(videos, of_videos, strict=True):
        images = augmentation.preprocess_evaluation(frames, image_size=32)
        logits = model(augmentation.normalize(images), training=False).numpy()
        atol = 1e-5 * max(1, np.abs(logits).max())
        np.testing.assert_allclose(answer["logits"], logits, atol=atol)
        # Training summed the logits of a video's three parts.
        expected = tf.nn.softmax(3 * answer["logits"])
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(of_pngs["logits"], of_videos[0]["logits"], atol=atol)
    mean = of_videos[0]["logits"].mean(axis=0, keepdims=True)
    np.testing.assert_allclose(of_clip["logits"], mean, atol=atol)
    predicted = np.argmax([answer["logits"].sum(axis=0) for answer in of_videos], axis=1)
    assert results["top1"] == np.mean(predicted == reader.labels)


def check_later_exports(workdir, output, best):
    """`export` takes the newest checkpoint of a run, or its best."""
    best_path = workdir / best["checkpoint"]
    for flag in (f"--workdir={workdir}", f"--checkpoint={best_path}"):
        command.run(export.main, export.define_flags, [flag, f"--output={output}"])
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    for version, checkpoint in (("1", workdir / "checkpoints" / "ckpt-8"), ("2", best_path)):
        request = ("frames", {"frames": frames})
        (answer,) = c_loader.answers_alone(str(output / version), [request])
        module = finetuned.load_classifier(str(workdir), str(checkpoint))
        expected = module.frames(frames)["logits"].numpy()
        np.testing.assert_allclose(answer["logits"], expected, rtol=1e-4, atol=1e-4)
        names = (output / version / "assets" / "class_names.txt").read_text().splitlines()
        assert tuple(names) == module.config.class_names


def test_refusals_are_one_line(flags, synthetic_shards, tmp_path):
    def fail(*more, code=1):
        found, _, stderr = finish(start(*flags, f"--workdir={tmp_path}/w", *more))
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert found == code and len(errors) == 1 and "Traceback" not in stderr, stderr
        return errors[0]

    assert "--dropout=1.0: must be from 0 to below 1" in fail("--dropout=1", code=2)
    assert "leakage" in fail(f"--test={synthetic_shards['train']}")
    assert "--encoder=nowhere: neither a SavedModel folder" in fail("--encoder=nowhere")
    assert not (tmp_path / "w" / "config.json").exists()
