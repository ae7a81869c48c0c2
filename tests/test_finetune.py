"""Does a user's fine-tuning work from the command line? Run, kill, resume, refusals."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf


def start(*flags):
    return subprocess.Popen(
        [sys.executable, "-m", "tce_tf.finetune", *flags],
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
    code, _, stderr = finish(start(*flags, f"--workdir={tmp_path}/killed"))
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
