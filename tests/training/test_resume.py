"""Does a run that was stopped, however and wherever, end as one that never was? Bit for bit."""

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

from tce_tf.modeling import checkpoint_files

STEPS = 10
# After some 90 steps TensorFlow schedules ops otherwise, and a resumed run counts from its start.
MANY_STEPS = 300
# Four steps an epoch, so that checkpoints 3, 6 and 9 lie inside one.
FLAGS = (
    "--image_size=32 --batch_size=8 --num_negatives=8 --epochs=3 --log_every=1 --checkpoint_every=3 "
    f"--learning_rate=0.001 --keep=2 --steps={STEPS}"
).split()
# Two blocks for what stops anywhere: a start takes half as long. All of them for what takes long.
SMALL = (small_network.__file__, "train")
WHOLE = ("-m", "tce_tf.train")
VARYING = ("frames_per_second", "input_wait_fraction")


def start(data, workdir, *more, program=SMALL):
    command = [sys.executable, *program, f"--data={data}", f"--workdir={workdir}", *FLAGS, *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def logged_steps(workdir):
    path = os.path.join(workdir, "metrics.jsonl")
    return open(path, encoding="utf-8").read().count("\n") if os.path.exists(path) else 0


def stop_at(data, workdir, step, number, *more, program=SMALL):
    """Sends a signal when a step has been logged; returns the process's code and stderr."""
    process = start(data, workdir, *more, program=program)
    deadline = time.monotonic() + 200
    while logged_steps(workdir) < step and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait(), process.stderr.read()


def finish(data, workdir, *more, steps=STEPS, program=SMALL):
    """Runs to the end; returns stderr, the lines of metrics.jsonl and every tensor of the end."""
    process = start(data, workdir, *more, program=program)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    with open(os.path.join(workdir, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    for line in lines:
        for name in VARYING:
            line.pop(name)
    reader = tf.train.load_checkpoint(
        checkpoint_files.prefix_of(checkpoint_files.folder_of(workdir), steps)
    )
    # The object graph is left out: its serialized form is not a number of the run.
    names = [n for n in reader.get_variable_to_shape_map() if n != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return stderr, lines, {name: reader.get_tensor(name) for name in names}


def assert_same(run, other, steps=STEPS):
    assert run[1] == other[1]
    assert [line["step"] for line in run[1]] == list(range(1, steps + 1))
    assert run[2].keys() == other[2].keys() and len(run[2]) > 40
    assert any("bank/embeddings" in name for name in run[2])
    for name, value in run[2].items():
        assert np.asarray(value).tobytes() == np.asarray(other[2][name]).tobytes(), name


@pytest.fixture(scope="module", name="whole")
def _whole(synthetic_shards, tmp_path_factory):
    return finish(synthetic_shards["train"], str(tmp_path_factory.mktemp("whole")))


def test_terminated_and_killed_it_ends_as_if_it_had_not_been(whole, synthetic_shards, tmp_path):
    data, workdir = synthetic_shards["train"], str(tmp_path)
    code, stderr = stop_at(data, workdir, 2, signal.SIGTERM)
    assert code == 143, stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "stopped by SIGTERM at step" in line and "Traceback" not in stderr
    (saved,) = checkpoint_files.steps(checkpoint_files.folder_of(workdir))[-1:]
    assert f"step {saved}, saved in {workdir}/checkpoints/ckpt-{saved}:" in line

    code, stderr = stop_at(data, workdir, 7, signal.SIGKILL)
    assert code == -signal.SIGKILL and f"resumed from step {saved}" in stderr
    with open(os.path.join(workdir, "metrics.jsonl"), "a", encoding="utf-8") as file:
        file.write('null\n{"step": 9, "lo')
    resumed = finish(data, workdir)
    assert "resumed from step" in resumed[0]
    assert_same(whole, resumed)


@pytest.mark.slow
def test_a_run_of_hundreds_of_steps_repeats_killed_or_not(synthetic_shards, tmp_path):
    data, runs = synthetic_shards["train"], [str(tmp_path / name) for name in "abc"]
    more = [f"--steps={MANY_STEPS}", f"--epochs={MANY_STEPS // 4}", "--checkpoint_every=50"]
    stop_at(data, runs[2], 170, signal.SIGKILL, *more, program=WHOLE)
    first, *others = [finish(data, run, *more, steps=MANY_STEPS, program=WHOLE) for run in runs]
    assert "resumed from step 150" in others[1][0]
    for other in others:
        assert_same(first, other, MANY_STEPS)


@pytest.mark.slow
def test_killed_twenty_times_at_random_it_ends_as_if_it_had_not_been(
    whole, synthetic_shards, tmp_path
):
    data, workdir = synthetic_shards["train"], str(tmp_path)
    rng = np.random.default_rng(int(time.time()))
    began = time.monotonic()
    process = start(data, str(tmp_path / "timed"))
    process.communicate()
    duration = time.monotonic() - began
    kills = at_work = 0
    while kills < 20:
        before = checkpoint_files.steps(checkpoint_files.folder_of(workdir))
        if (
            before and before[-1] == STEPS
        ):  # it ended before it was killed: once more from a while ago
            for step in before:
                if step > STEPS // 2:
                    for path in tmp_path.glob(f"checkpoints/ckpt-{step}.*"):
                        path.unlink()
        process = start(data, workdir)
        try:
            process.communicate(timeout=rng.uniform(0, duration))
        except subprocess.TimeoutExpired:
            process.kill()
            _, stderr = process.communicate()
            kills += 1
            at_work += "steps in all" in stderr
    assert at_work >= 3, "hardly any kill hit a run at work"
    assert_same(whole, finish(data, workdir))
