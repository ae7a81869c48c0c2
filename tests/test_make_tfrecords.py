"""The command: exit codes and one line for what a user may get wrong."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from tce_tf.data.shard_reader import ShardReader

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Two frame folders of three pictures."""
    root = tmp_path_factory.mktemp("frames")
    for clip in ("a", "b"):
        (root / clip).mkdir()
        for number in range(1, 4):
            Image.new("RGB", (64, 48), (40 * number, 90, 10)).save(root / clip / f"{number}.jpg")
    return str(root)


def _run(*arguments):
    command = [sys.executable, "-m", "tce_tf.make_tfrecords", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_makes_shards_that_can_be_read(frames, tmp_path):
    done = _run(f"--input={frames}", f"--output={tmp_path}", "--short_side=48", "--num_shards=2")
    assert done.returncode == 0, done.stderr
    assert "2 videos, 6 frames, 0 truncated, 0 of 2 rejected" in done.stderr
    reader = ShardReader([str(tmp_path)])
    assert reader.names == ["a", "b"] and reader.num_frames.tolist() == [3, 3]
    with open(os.path.join(frames, "b", "2.jpg"), "rb") as file:
        assert reader.read_frames([1], [1]) == [file.read()]


def test_help_names_every_flag():
    done = _run("--help")
    assert done.returncode == 0
    names = "input output layout split_dir split subset short_side size fps jpeg_quality num_shards"
    for name in [*names.split(), "num_workers", "clip_seconds", "max_rejected_fraction"]:
        assert f"--{name}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input=/nowhere", "--output={out}"], 1, "/nowhere does not exist"),
        (["--input={out}", "--output={out}/o"], 1, "holds no videos"),
        (["--output={out}"], 2, "input"),
        (["--input={in}", "--output={out}", "--jpeg_quality=101"], 2, "jpeg_quality"),
        (["--input={in}", "--output={out}", "--size=0x3"], 2, "HxW"),
        (["--input={in}", "--output={out}", "--split_dir={out}"], 1, "--split_dir"),
        (["--input={in}", "--output={out}", "--beam_options=--x"], 2, "--runner=beam"),
        (["--input=s4://bucket/videos", "--output={out}"], 1, "s4://"),
    ],
)
def test_mistakes_give_one_line(frames, tmp_path, arguments, code, message):
    done = _run(*[a.replace("{in}", frames).replace("{out}", str(tmp_path)) for a in arguments])
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_without_beam_one_line_says_how_to_get_it(frames, tmp_path):
    code = (
        "import sys; sys.modules['apache_beam'] = None\n"
        "from tce_tf import command, make_tfrecords as m\n"
        f"command.run(m.main, m.define_flags, ['--input={frames}', '--output={tmp_path}/o', "
        "'--runner=beam'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "pip install -r requirements.txt apache-beam" in done.stderr.splitlines()[-1]
