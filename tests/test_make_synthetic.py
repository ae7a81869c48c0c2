"""`python -m tce_tf.make_synthetic`: what it writes, its help, its exit codes."""

import subprocess
import sys

import pytest


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tce_tf.make_synthetic", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_makes_clips_and_lists(tmp_path):
    done = _run(f"--output={tmp_path}/v", "--num_videos=6", "--num_classes=3", "--num_frames=3",
                "--size=32x48", "--seed=5")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 clips of 3 classes (6 new), 3 for training, 3 for testing" in done.stderr
    assert len(list(tmp_path.rglob("v_*_g0[12]_c01.mp4"))) == 6
    assert len((tmp_path / "v/splits/testlist01.txt").read_text().splitlines()) == 3


def test_help():
    done = _run("--help")
    assert done.returncode == 0
    for flag in ("output", "num_videos", "seed", "num_classes", "num_frames", "size"):
        assert f"--{flag}=" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--output={}/v", "--num_videos=0"], 2, "num_videos"),
        (["--output={}/v", "--size=96"], 2, "HxW"),
        (["--output={}/v", "--size=97x128"], 2, "even"),
        ([], 2, "output"),
        (["--output={}"], 1, "not empty"),
        (["--output={}/notes.txt/v"], 1, "notes.txt"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, code, message):
    (tmp_path / "notes.txt").write_text("mine")
    done = _run(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
