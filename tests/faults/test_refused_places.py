"""What of two runs into one place, and of places that cannot be read or written? One line each."""

import shutil
import subprocess
import time

import fault_jobs
import pytest

pytestmark = pytest.mark.slow
COMMANDS = ["make_tfrecords", "train", "finetune", "embed", "export"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_of_two_runs_is_refused(name, jobs, undisturbed, tmp_path):
    job, whole = jobs[name], undisturbed(name)
    since = time.time()
    first = job.start(tmp_path)
    assert fault_jobs.wait_for_work(job, first, tmp_path, since), first.stderr.read()
    first.send_signal(subprocess.signal.SIGSTOP)  # it holds its lock for as long as we look
    try:
        assert f"another {name} is writing to {tmp_path}" in job.refused(tmp_path)
    finally:
        first.send_signal(subprocess.signal.SIGCONT)
    _, stderr = first.communicate(timeout=600)
    assert first.returncode == 0, stderr
    job.assert_same(job.result(tmp_path), whole.result)
    fault_jobs.injected["second run in one place"] += 1


@pytest.fixture(name="without_rights")
def _without_rights():
    """What runs a command so that modes of files bind it, though the tests are run by root."""
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("setpriv is not to be had here")
    return prefix


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_must_not_be_written(name, jobs, tmp_path, without_rights):
    root = tmp_path / "closed"
    root.mkdir(mode=0o555)
    line = jobs[name].refused(root, before=without_rights)
    assert str(root) in line and "Permission denied" in line
    assert list(root.iterdir()) == []
    fault_jobs.injected["permission denied"] += 1


@pytest.mark.parametrize(
    ("name", "fault"),
    # To make_tfrecords and embed a folder in place of a video is a folder of their input.
    [(name, "closed") for name in COMMANDS]
    + [(name, "folder") for name in ("train", "finetune", "export")],
)
def test_input_that_cannot_be_read(name, fault, jobs, undisturbed, tmp_path, without_rights):
    """A file of it is without rights to read, or reading it fails as a bad disk's does: EISDIR."""
    source = tmp_path / "in"
    if name in ("make_tfrecords", "embed"):
        (flag,) = [f for f in jobs[name].flags if f.startswith("--input=")]
        pattern, more = "*/*.mp4", (f"--input={source}", "--max_rejected_fraction=0")
    elif name == "export":
        (flag,) = [f for f in jobs[name].flags if f.startswith("--workdir=")]
        pattern, more = "checkpoints/*.index", (f"--workdir={source}",)
    else:
        (flag,) = [f for f in jobs[name].flags if f.startswith(("--data=", "--train="))]
        pattern, more = "*.tfrecord", (f"{flag.partition('=')[0]}={source}",)
    shutil.copytree(flag.partition("=")[2], source)
    for path in source.glob(pattern) if name == "export" else [min(source.glob(pattern))]:
        if fault == "closed":
            path.chmod(0)
        else:
            path.unlink()
            path.mkdir()
    line = jobs[name].refused(tmp_path, *more, before=without_rights)
    assert str(source) in line or path.stem in line, line
    fault_jobs.injected["input that cannot be read"] += 1
