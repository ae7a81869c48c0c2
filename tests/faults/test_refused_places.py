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


def copy_input(job, source):
    """Copies what a job reads; returns the files that faults are for, and flags to read the copy."""
    if job.command in ("make_tfrecords", "embed"):
        (flag,) = [f for f in job.flags if f.startswith("--input=")]
        pattern, more = "*/*.mp4", (f"--input={source}", "--max_rejected_fraction=0")
    elif job.command == "export":
        (flag,) = [f for f in job.flags if f.startswith("--workdir=")]
        pattern, more = "checkpoints/*.index", (f"--workdir={source}",)
    else:
        (flag,) = [f for f in job.flags if f.startswith(("--data=", "--train="))]
        pattern, more = "*.tfrecord", (f"{flag.partition('=')[0]}={source}",)
    shutil.copytree(flag.partition("=")[2], source)
    files = sorted(source.glob(pattern))
    return (files if job.command == "export" else files[:1]), more


@pytest.mark.parametrize(
    ("name", "fault"),
    # To make_tfrecords and embed a folder in place of a video is a folder of their input.
    [(name, "closed") for name in COMMANDS]
    + [(name, "folder") for name in ("train", "finetune", "export")],
)
def test_input_that_cannot_be_read(name, fault, jobs, undisturbed, tmp_path, without_rights):
    """A file of it is without rights to read, or reading it fails as a bad disk's does: EISDIR."""
    source = tmp_path / "in"
    files, more = copy_input(jobs[name], source)
    for path in files:
        if fault == "closed":
            path.chmod(0)
        else:
            path.unlink()
            path.mkdir()
    line = jobs[name].refused(tmp_path, *more, before=without_rights)
    assert str(source) in line or files[0].stem in line, line
    fault_jobs.injected["input that cannot be read"] += 1


# Put before libc, it makes every read of files of one name fail as a bad disk's does.
BAD_DISK = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_bad(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strstr(path, getenv("BAD_NAME")) != NULL;
}
ssize_t read(int file, void *to, size_t count) {
  if (is_bad(file)) { errno = EIO; return -1; }
  return syscall(SYS_read, file, to, count);
}
ssize_t pread(int file, void *to, size_t count, off_t at) {
  if (is_bad(file)) { errno = EIO; return -1; }
  return syscall(SYS_pread64, file, to, count, at);
}
ssize_t pread64(int file, void *to, size_t count, off64_t at) { return pread(file, to, count, at); }
"""


@pytest.fixture(scope="module", name="bad_disk")
def _bad_disk(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("bad_disk")
    (folder / "bad_disk.c").write_text(BAD_DISK)
    library = str(folder / "bad_disk.so")
    command = ["cc", "-shared", "-fPIC", "-o", library, str(folder / "bad_disk.c")]
    subprocess.run(command, check=True)
    return library


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fails_to_read(name, jobs, undisturbed, tmp_path, bad_disk):
    """One line; and nothing is lost for when the disk is mended."""
    job = jobs[name]
    files, more = copy_input(job, tmp_path / "in")
    bad = files[0].name if name != "export" else "/checkpoints/ckpt-"
    line = job.refused(tmp_path, *more, LD_PRELOAD=bad_disk, BAD_NAME=bad)
    assert files[0].stem in line or str(tmp_path / "in") in line, line
    process = job.start(tmp_path, *more)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    if name in ("train", "finetune", "export"):  # the others' results name where they read
        job.assert_same(job.result(tmp_path), undisturbed(name).result)
    fault_jobs.injected["read error (EIO)"] += 1
