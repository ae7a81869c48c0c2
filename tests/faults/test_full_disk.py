"""What does a full disk cost? One line of error and the time until there is room, nothing else."""

import contextlib
import pathlib
import subprocess

import fault_jobs
import pytest

pytestmark = pytest.mark.slow
KIBI = 1024


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: int):
    """Mounts a disk of so many bytes on a folder; skips the test where that is not allowed."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // KIBI}k", "tmpfs", str(folder)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def enlarge(folder: pathlib.Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=2g", str(folder)], check=True)


def size_of(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["make_tfrecords", "train", "finetune", "embed", "export"])
def test_a_full_disk_costs_no_more_than_time(name, share, jobs, undisturbed, tmp_path):
    job, whole = jobs[name], undisturbed(name)
    with small_disk(tmp_path, int(share * size_of(whole.root))):
        line = job.refused(tmp_path)
        fault_jobs.injected[f"full disk under {name}"] += 1
        assert "No space left on device" in line and str(tmp_path) in line
        job.intact(tmp_path, whole.root)
        enlarge(tmp_path)
        job.assert_same(job.finish(tmp_path), whole.result)


@pytest.mark.parametrize("output", ["scores.json", "space.png", "space.gif", "space.html"])
def test_no_half_a_report_or_picture(output, jobs, synthetic_shards, tmp_path):
    command = "evaluate" if output == "scores.json" else "visualize"
    data = (
        (f"--train={synthetic_shards['train']}", f"--test={synthetic_shards['test']}")
        if command == "evaluate"
        else (f"--input={synthetic_shards['test']}", "--max_frames=32")
    )
    job = fault_jobs.Job(
        command,
        ("--encoder=none", "--image_size=32", *data, f"--output={{root}}/{output}"),
        ("*",),
        lambda root: {path.name: path.stat().st_size > 0 for path in root.iterdir()},
        lambda root, reference: None,
    )
    with small_disk(tmp_path, 8 * KIBI):
        line = job.refused(tmp_path)
        fault_jobs.injected[f"full disk under {command}"] += 1
        assert "No space left on device" in line and str(tmp_path) in line
        assert not (tmp_path / output).exists()
        enlarge(tmp_path)
        assert job.finish(tmp_path)[output]
