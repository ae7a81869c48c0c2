"""Apache Beam makes the same shards as this machine does."""

import os
import subprocess
import sys

import pytest
import tiny_videos

from tce_tf import errors
from tce_tf.data import conversion, plan, run_state

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

beam = pytest.importorskip("apache_beam", reason="apache-beam is not installed")
from tce_tf.data import beam_runner  # noqa: E402 -- needs Beam


@pytest.fixture(scope="module", name="clips")
def _clips(tmp_path_factory):
    """Seven clips, one of which is no video."""
    root = tmp_path_factory.mktemp("clips")
    for number in range(5):
        tiny_videos.write_video(root / f"{number}.mp4", frames=3 + number)
    tiny_videos.write_frames(root / "5")
    (root / "6.mp4").write_text("no video")
    return str(root)


@pytest.fixture(scope="module", name="local")
def _local(clips, tmp_path_factory):
    output = tmp_path_factory.mktemp("local")
    conversion.make_tfrecords(_options(clips, output), num_workers=2, max_rejected_fraction=0.5)
    return _files(output)


def _options(clips, output):
    return plan.Options(str(clips), str(output), short_side=24, num_shards=4)


def _files(folder):
    return {e.name: open(e.path, "rb").read() for e in os.scandir(folder) if e.is_file()}


def test_the_command_gives_the_same_bytes_and_finishes_what_is_missing(clips, local, tmp_path):
    command = [
        sys.executable, "-m", "tce_tf.make_tfrecords", f"--input={clips}", f"--output={tmp_path}",
        "--short_side=24", "--num_shards=4", "--max_rejected_fraction=0.5", "--runner=beam",
        # Two worker processes, as on a cluster.
        "--beam_options=--direct_num_workers=2 --direct_running_mode=multi_processing",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 7 rejected" in done.stderr
    assert _files(tmp_path) == local and len(local) == 10
    assert sorted(os.listdir(tmp_path / run_state.WORK_FOLDER)) == [
        *(f"0000{number}.json" for number in range(4)), "lock", "plan.json",
    ]  # fmt: skip

    missing, kept = "videos-00002-of-00004.tfrecord", "videos-00000-of-00004.tfrecord"
    inode = os.stat(tmp_path / kept).st_ino
    os.unlink(tmp_path / missing)
    manifest = beam_runner.make_tfrecords(_options(clips, tmp_path), max_rejected_fraction=0.5)
    assert len(manifest.videos) == 6
    assert _files(tmp_path) == local and os.stat(tmp_path / kept).st_ino == inode


def test_a_workers_error_is_one_line(clips, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion.storage, "publish", full)
    with pytest.raises(
        errors.UserError, match=r"pipeline failed: cannot write .*No space left"
    ) as e:
        beam_runner._run(
            [plan.Shard(0, "a.tfrecord", [], str(tmp_path), _options(clips, tmp_path).encoding)],
            beam_runner.parse_options(""),
            1,
        )
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--direct_num_workers=many", "direct_num_workers: invalid int value"),
        ("--runner='Flink", "No closing quotation"),
    ],
)
def test_options_that_beam_refuses(options, message):
    with pytest.raises(errors.FlagError, match=message):
        beam_runner.parse_options(options)


def test_an_unknown_runner_is_named(clips, tmp_path):
    with pytest.raises(errors.UserError, match="NoSuchRunner"):
        beam_runner.make_tfrecords(_options(clips, tmp_path), beam_options="--runner=NoSuchRunner")
