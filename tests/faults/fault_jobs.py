"""Which jobs do the fault tests drive, when are they at work, and when is a result the same?

Each job is a real command with small settings. Its result is read as arrays and texts by name, so
that a run which met a fault can be compared with one that did not.
"""

import collections
import dataclasses
import glob
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tce_tf.evaluation import collection
from tce_tf.modeling import checkpoint_files

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
SMALL = str(REPOSITORY / "tests" / "small_network.py")
# Kind of fault -> how many were injected; conftest prints them at the end.
injected: collections.Counter = collections.Counter()


@dataclasses.dataclass(frozen=True)
class Job:
    """One command on small data.

    Attributes:
      command: its name.
      flags: its flags, with `{root}` for the folder that it writes to.
      working: globs below the root; a file of them that is new says that work has begun.
      result: root -> name -> array, bytes or other value that can be compared.
      intact: root, root of an undisturbed run -> nothing; asserts that all that is there under a
        final name is whole.
      atol: for float arrays; 0 compares bits.
    """

    command: str
    flags: tuple[str, ...]
    working: tuple[str, ...]
    result: Callable[[pathlib.Path], dict]
    intact: Callable[[pathlib.Path, pathlib.Path], None]
    atol: float = 0.0

    def start(self, root: pathlib.Path, *more: str, before: tuple[str, ...] = (), **environment):
        """Starts the command; `before` is what runs it, as in `setpriv ...`."""
        flags = [flag.format(root=root) for flag in self.flags]
        return subprocess.Popen(
            [*before, sys.executable, SMALL, self.command, *flags, *more],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=os.environ
            | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(REPOSITORY)}
            | environment,
        )  # fmt: skip

    def finish(self, root: pathlib.Path) -> dict:
        """Runs it to its end, which must be a good one; returns its result."""
        process = self.start(root)
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
        return self.result(root)

    def refused(
        self, root: pathlib.Path, *more: str, before: tuple[str, ...] = (), **environment
    ) -> str:
        """Runs it to an end of exit code 1; returns its one line of error."""
        process = self.start(root, *more, before=before, **environment)
        _, stderr = process.communicate(timeout=600)
        lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert process.returncode == 1 and len(lines) == 1 and "Traceback" not in stderr, stderr
        return lines[0]

    def is_at_work(self, root: pathlib.Path, since: float) -> bool:
        """Whether something was written by the work itself since a time, seconds of `time.time`."""
        found = (
            path
            for pattern in self.working
            for path in glob.glob(str(root / pattern), recursive=True, include_hidden=True)
        )
        for path in found:
            try:
                if os.stat(path).st_mtime > since:
                    return True
            except FileNotFoundError:
                continue  # renamed meanwhile
        return False

    def assert_same(self, found: dict, expected: dict) -> None:
        """Asserts that two results are one."""
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        for name, value in expected.items():
            if isinstance(value, np.ndarray) and self.atol and value.dtype.kind == "f":
                np.testing.assert_allclose(found[name], value, atol=self.atol, err_msg=name)
            elif isinstance(value, np.ndarray):
                np.testing.assert_array_equal(found[name], value, err_msg=name)
            else:
                assert found[name] == value, name


def wait_for_work(job: Job, process, root: pathlib.Path, since: float) -> bool:
    """Returns True once the job is at work, False if it ended before."""
    while process.poll() is None:
        if job.is_at_work(root, since):
            return True
        time.sleep(0.005)
    return False


def make_jobs(data: dict[str, str], clips: str, run: str) -> dict[str, Job]:
    """The jobs by name.

    Args:
      data: `train` and `test`, folders of labelled shards.
      clips: folder of videos.
      run: workdir of a finished run of the job `train`.
    """
    training = (
        "--image_size=32 --batch_size=8 --log_every=1 --checkpoint_every=2 --keep=2 "
        "--learning_rate=0.001"
    ).split()
    jobs = [
        Job(
            "make_tfrecords",
            (f"--input={clips}", "--output={root}/out", "--short_side=48", "--num_shards=8",
             "--num_workers=2", "--layout=auto"),
            ("out/.make_tfrecords/**",),
            _shard_files,
            _shards_are_whole,
        ),
        Job(
            "train",
            (f"--data={data['train']}", "--workdir={root}/run", "--num_negatives=8", "--epochs=3",
             "--steps=12", *training),
            ("run/metrics.jsonl",),
            lambda root: _tensors(root / "run", 12, ("loss", "nce_loss")),
            _checkpoints_are_whole,
        ),
        Job(
            "finetune",
            (f"--train={data['train']}", f"--test={data['test']}", "--workdir={root}/run",
             "--encoder=none", "--epochs=3", "--test_frames=2", *training),
            ("run/metrics.jsonl",),
            lambda root: _tensors(root / "run", 12, ("loss", "test.top1")) | _scores(root / "run"),
            _checkpoints_are_whole,
        ),
        Job(
            "embed",
            (f"--input={clips}", "--output={root}/all.tfrecord", "--encoder=none",
             "--image_size=32", "--rows_per_shard=30", "--batch_size=8"),
            (".all.partial", "all-*"),
            lambda root: dict(collection.load(str(root / "all.tfrecord"))),
            _collection_is_whole,
            atol=1e-5,  # what a killed run did had its threads otherwise
        ),
        Job(
            "export",
            (f"--workdir={run}", "--output={root}/out"),
            ("out/.*-*/**",),
            lambda root: _answers(_newest_export(root)),
            _exports_are_whole,
        ),
    ]  # fmt: skip
    return {job.command: job for job in jobs}


def _shard_files(root) -> dict[str, bytes]:
    folder = root / "out"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _shards_are_whole(root, reference) -> None:
    expected = _shard_files(reference)
    found = _shard_files(root) if (root / "out").is_dir() else {}
    for name, content in found.items():
        if not name.startswith("."):
            assert content == expected[name], name


def _tensors(workdir, step, scalars) -> dict:
    """Every tensor of the last checkpoint, and the lines of metrics.jsonl."""
    reader = tf.train.load_checkpoint(
        checkpoint_files.prefix_of(checkpoint_files.folder_of(str(workdir)), step)
    )
    names = [n for n in reader.get_variable_to_shape_map() if n != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, step + 1))
    logged = {f"logged {name}": [line.get(name) for line in lines] for name in scalars}
    return {name: np.asarray(reader.get_tensor(name)) for name in names} | logged


def _scores(workdir) -> dict:
    results = json.loads((workdir / "results.json").read_text())
    return {name: results[name] for name in ("top1", "confusion", "best")}


def _checkpoints_are_whole(root, reference) -> None:
    for name in ("checkpoints", "best"):
        folder = str(root / "run" / name)
        for step in checkpoint_files.steps(folder):
            found = checkpoint_files.problem(checkpoint_files.prefix_of(folder, step))
            assert found is None, f"{name} {step}: {found}"


def _collection_is_whole(root, reference) -> None:
    """Shards under final names, and a manifest that knows them."""
    if (root / "all.json").exists():
        json.loads((root / "all.json").read_text())
    for path in root.glob("all-*.tfrecord"):
        rows = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
        assert rows == sum(1 for _ in tf.data.TFRecordDataset(str(reference / path.name)))


def _exports(root) -> list[pathlib.Path]:
    folder = root / "out"
    found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def _newest_export(root) -> pathlib.Path:
    return _exports(root)[-1]


def _exports_are_whole(root, reference) -> None:
    files = lambda path: {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}  # noqa: E731
    expected = _newest_export(reference)
    for path in _exports(root):
        assert files(path) == files(expected)
        weights = "variables/variables.data-00000-of-00001"
        assert (path / weights).stat().st_size == (expected / weights).stat().st_size


def _answers(path) -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    loaded = tf.saved_model.load(str(path))
    answer = loaded.signatures["frames"](frames=tf.constant(frames))
    return {name: value.numpy() for name, value in answer.items()}
