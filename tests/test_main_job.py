"""Does the main job work as a user types it? Clips, shards, training, export, scores, embedding."""

import json
import subprocess
import sys

import numpy as np
import pytest


def run(command, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"tce_tf.{command}", *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )


def succeed(command, *flags):
    done = run(command, *flags)
    assert done.returncode == 0, done.stderr
    return done


def fail(command, *flags, code=1):
    """The one line that a failing command ends with."""
    done = run(command, *flags)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(scope="module", name="job")
def _job(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    clips = f"{root}/clips"
    succeed("make_synthetic", f"--output={clips}", "--num_videos=48", "--num_frames=8")
    for subset in ("train", "test"):
        succeed(
            "make_tfrecords", f"--input={clips}", "--layout=ucf101", f"--split_dir={clips}/splits",
            f"--subset={subset}", "--short_side=48", f"--output={root}/{subset}",
        )  # fmt: skip
    return root


TRAIN = ["--image_size=32", "--batch_size=8", "--num_negatives=8", "--epochs=1", "--log_every=2"]


def test_train_export_evaluate_embed(job):
    done = succeed("train", f"--data={job}/train", f"--workdir={job}/run", *TRAIN)
    assert "step 4/4" in done.stderr and "frames/s" in done.stderr and "left" in done.stderr
    again = succeed(
        "train",
        f"--data={job}/train",
        f"--workdir={job}/run",
        f"--export_dir={job}/exported",
        *TRAIN,
    )
    assert "resumed from step 4" in again.stderr
    exported = succeed("export", f"--workdir={job}/run", f"--output={job}/exported").stdout.strip()
    assert exported == f"{job}/exported/2"  # 1 came from training

    both = [f"--train={job}/train", f"--test={job}/test"]
    shown = succeed(
        "evaluate", f"--encoder={job}/exported", *both, f"--output={job}/scores.json"
    ).stdout
    scores = json.loads((job / "scores.json").read_text())
    assert f"top-1 {100 * scores['knn.top1']:.1f} %" in shown and len(scores["per_class"]) == 8
    assert scores["settings"]["encoder"] == f"{job}/exported"
    fail_line = fail("evaluate", "--encoder=none", f"--train={job}/train", f"--test={job}/train")
    assert "leakage" in fail_line

    video = next((job / "clips").glob("*/*.mp4"))
    rows = {}
    for name in ("exported", "run"):
        succeed(
            "embed", f"--encoder={job}/{name}", f"--input={video}", f"--output={job}/{name}.npz"
        )
        with np.load(job / f"{name}.npz") as arrays:
            rows[name] = dict(arrays)
    assert rows["run"]["embeddings"].shape == (8, 128)
    assert rows["run"]["timestamps"].tolist() == [40_000 * i for i in range(8)]
    np.testing.assert_allclose(rows["run"]["embeddings"], rows["exported"]["embeddings"], atol=1e-5)


def test_bad_input_is_one_clear_line(job, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    assert "nowhere" in fail("make_tfrecords", "--input=nowhere", f"--output={tmp_path}/a")
    assert "empty" in fail("make_tfrecords", f"--input={empty}", f"--output={tmp_path}/b")
    assert "nowhere" in fail("train", "--data=nowhere", f"--workdir={tmp_path}/c")
    assert "--epochs=0" in fail(
        "train", f"--data={job}/train", f"--workdir={tmp_path}/d", "--epochs=0", code=2
    )
    assert "batch_size" in fail("train", "--batch_size=many", code=2)
    assert "text.mp4" in fail(
        "embed", "--encoder=none", f"--input={tmp_path}/text.mp4", f"--output={tmp_path}/e.npz"
    )
    other = tmp_path / "other"
    other.mkdir()
    manifest = json.loads((job / "train" / "manifest.json").read_text())
    (version,) = [key for key in manifest if "version" in key]
    (other / "manifest.json").write_text(json.dumps(manifest | {version: 999}))
    line = fail("train", f"--data={other}", f"--workdir={tmp_path}/f")
    assert "999" in line and "version" in line
