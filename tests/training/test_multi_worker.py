"""Do several processes train one model as one process does, and end together when one dies?

Workers are real processes of the command on loopback; what they must equal is a mirrored run over
two devices in this process, which is itself stopped, resumed and exported.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import small_network
import tensorflow as tf

from tce_tf import config, errors
from tce_tf.modeling import checkpoint_files, resnet
from tce_tf.serving import loader
from tce_tf.training import run, workers

STEPS = 3


@pytest.fixture(scope="module", name="settings")
def _settings(synthetic_shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("workers")
    return config.TrainConfig(
        data=synthetic_shards["train"],
        workdir=str(root / "mirrored"),
        strategy="mirrored",
        image_size=32,
        batch_size=8,
        num_negatives=8,
        epochs=50,
        decay_epochs="",
        jit="off",
        steps=STEPS,
        log_every=1,
        checkpoint_every=2,
        learning_rate=1e-5,
    )


def losses(workdir):
    with open(f"{workdir}/metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def weights(workdir, step):
    """Every tensor by name; Keras 3 has the weights below the optimizer."""
    reader = tf.train.load_checkpoint(f"{workdir}/checkpoints/ckpt-{step}")
    names = [n for n in reader.get_variable_to_shape_map() if n != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name) for name in names}


def bank(workdir, step):
    (found,) = [v for name, v in weights(workdir, step).items() if name.startswith("model/bank/")]
    return found


def saved_steps(workdir):
    return checkpoint_files.steps(checkpoint_files.folder_of(str(workdir)))


@pytest.fixture(scope="module", name="mirrored")
def _mirrored(settings):
    """The workdir of a mirrored run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)
        yield _train(settings)


def _train(settings):
    assert run.train(settings).step == STEPS
    return settings.workdir


@pytest.mark.slow
def test_a_mirrored_run_resumes_and_exports_its_weights(settings, mirrored, tmp_path):
    parted = dataclasses.replace(settings, workdir=str(tmp_path / "parted"))
    assert run.train(dataclasses.replace(parted, steps=2)).step == 2
    result = run.train(dataclasses.replace(parted, export_dir=str(tmp_path / "export")))
    assert result.step == STEPS and result.export_path.endswith("export/1")
    np.testing.assert_allclose(losses(parted.workdir), losses(mirrored), rtol=1e-5)
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    exported = loader.load_encoder(str(tmp_path / "export"))
    restored = loader.load_encoder(parted.workdir)  # a tf.function holds its module weakly
    ours, theirs = exported.frames(frames), restored.frames(frames)
    for name in ("features", "embeddings"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)


def start(settings, *changes):
    """Starts two workers; `changes` are what differs from the settings for each, or for both."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    started = []
    for index in range(2):
        own = dataclasses.replace(
            settings, strategy="multi_worker", **changes[index % len(changes)]
        )
        flags = [
            f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in dataclasses.asdict(own).items()
        ]
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        started.append(
            subprocess.Popen(
                [sys.executable, small_network.__file__, "train", *flags],
                env=os.environ
                | {
                    "PYTHONPATH": os.getcwd(),
                    "TF_CONFIG": json.dumps(task),
                    "CUDA_VISIBLE_DEVICES": "-1",
                },
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(processes, timeout=240):
    """Exit codes and standard errors."""
    try:
        outputs = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def error_line(output):
    assert "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


def test_two_workers_train_as_two_devices_do(settings, mirrored, tmp_path):
    """The same losses, weights and bank; the chief alone writes, and only what one process would."""
    workdir = tmp_path / "run"
    codes, outputs = finish(start(settings, {"workdir": str(workdir)}))
    assert codes == [0, 0], outputs
    np.testing.assert_allclose(losses(workdir), losses(mirrored), rtol=1e-4)
    np.testing.assert_allclose(bank(workdir, STEPS), bank(mirrored, STEPS), atol=1e-4)
    ours, theirs = weights(workdir, STEPS), weights(mirrored, STEPS)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert np.abs(bank(workdir, STEPS) - bank(workdir, 2)).max() > 0.01
    assert sorted(os.listdir(workdir)) == sorted(os.listdir(mirrored))
    assert sorted(os.listdir(workdir / "checkpoints")) == sorted(
        os.listdir(f"{mirrored}/checkpoints")
    )
    assert len(os.listdir(workdir / "tensorboard")) == 1
    assert "step 1/3" in outputs[0] and "step 1/3" not in outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_others_end_and_all_can_resume(settings, mirrored, tmp_path, victim):
    workdir = tmp_path / "run"
    endless = {"workdir": str(workdir), "steps": 0, "checkpoint_every": 1}
    processes = start(settings, endless)
    wait_until_saved(workdir, processes)
    processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes, outputs = finish(processes)
    assert time.monotonic() - killed < 60
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    line = error_line(outputs[1 - victim])
    assert "another worker has ended" in line and str(workdir) in line, line

    resume(settings, endless, mirrored)


def wait_until_saved(workdir, processes):
    deadline = time.monotonic() + 200
    while not saved_steps(workdir):
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.05)


def resume(settings, changes, mirrored):
    """Starts all again: they go on from the last checkpoint and end as the undisturbed run does."""
    workdir = changes["workdir"]
    saved = saved_steps(workdir)[-1]
    last = max(saved + 2, STEPS)
    codes, outputs = finish(start(settings, changes | {"steps": last}))
    assert codes == [0, 0], outputs
    for output in outputs:
        assert f"resumed from step {saved}" in output
    assert len(losses(workdir)) == last
    np.testing.assert_allclose(losses(workdir)[:STEPS], losses(mirrored), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[0], [1], [0, 1]])
def test_a_signal_to_any_worker_stops_all_at_one_saved_step(settings, mirrored, tmp_path, asked):
    workdir = tmp_path / "run"
    endless = {"workdir": str(workdir), "steps": 0, "checkpoint_every": 1000}
    processes = start(settings, endless)
    deadline = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() or not losses(workdir):
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.05)
    for index in asked:
        processes[index].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [128 + signal.SIGTERM] * 2, outputs
    (saved,) = saved_steps(workdir)
    for line in map(error_line, outputs):
        assert f"stopped by SIGTERM at step {saved}, saved in {workdir}/" in line
    resume(settings, endless, mirrored)


@pytest.mark.slow
def test_workers_that_would_train_apart_are_refused(settings, mirrored, tmp_path):
    for changes, message in [
        (({}, {"seed": 1}), "differ in their flags"),
        (({}, {"workdir": str(tmp_path / "alone")}), f"resume from steps [0, {STEPS}]"),
    ]:
        processes = start(settings, *({"workdir": mirrored, "steps": 6} | c for c in changes))
        codes, outputs = finish(processes)
        assert codes == [1, 1], outputs
        # One may notice that the other has gone before it comes to compare.
        lines = [error_line(output) for output in outputs]
        assert any(message in line for line in lines), lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not set"),
        ("{", "it is '{'"),
        ('{"cluster": {"worker": ["a:1"]}}', "'task'"),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "host:port"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "index is 1"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "type worker"),
    ],
)
def test_a_bad_cluster_is_one_line(monkeypatch, text, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(errors.UserError, match="--strategy=multi_worker: set TF_CONFIG") as failure:
        workers.check_cluster()
    assert message in str(failure.value)
