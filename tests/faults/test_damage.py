"""Is damage to files always found? Of shards, checkpoints, manifests and embeddings."""

import json
import pathlib
import shutil

import fault_jobs
import numpy as np
import pytest

from tce_tf import errors
from tce_tf.data import conversion, plan, shard_reader
from tce_tf.evaluation import collection
from tce_tf.modeling import checkpoint_files

pytestmark = pytest.mark.slow


def damage(content: bytes, rng) -> bytes:
    """Cuts a file short, turns one bit of it, or overwrites a piece with zeros."""
    where = int(rng.integers(len(content)))
    kind = rng.integers(3)
    if kind == 0:
        return content[:where]
    changed = bytearray(content)
    if kind == 1:
        changed[where] ^= 1 << int(rng.integers(8))
    else:
        stop = min(len(content), where + int(rng.integers(1, 4096)))
        changed[where:stop] = bytes(stop - where)
    return bytes(changed)


def read_all(folder: str) -> list[list[bytes]]:
    """The JPEGs of every video. (Time stamps have no checksum: nothing is looked up by them.)"""
    reader = shard_reader.ShardReader([folder])
    return [reader.read_frames([video] * n, range(n)) for video, n in enumerate(reader.num_frames)]


@pytest.fixture(name="made")
def _made(synthetic_shards, tmp_path):
    """A shard folder of four shards, and a function that makes it (again)."""
    options = plan.Options(
        input=str(pathlib.Path(synthetic_shards["train"]).parent / "clips"),
        output=str(tmp_path / "shards"),
        layout="auto",
        short_side=48,
        num_shards=4,
    )

    def make():
        conversion.make_tfrecords(options, num_workers=1)

    make()
    return tmp_path / "shards", make


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_two_hundred_damaged_shards(made):
    """Each is refused by its name, or read as it was: the damage lay where nothing is read.

    The same command again makes it whole.
    """
    folder, make = made
    expected, whole = read_all(str(folder)), contents(folder)
    files = sorted(folder.glob("*.tfrecord")) + sorted(folder.glob("*.npy"))
    assert len(files) == 8
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(200):
        # One of the records' files and their index in turn.
        path = files[int(rng.integers(len(files)))]
        path.write_bytes(damage(whole[path.name], rng))
        try:
            assert read_all(str(folder)) == expected, f"trial {trial}: {path}"
        except (errors.UserError, shard_reader.FrameError) as error:
            assert path.name in str(error) or path.with_suffix("").stem in str(error), error
            refused += 1
        make()
        assert contents(folder) == whole, f"trial {trial}: {path}"
        fault_jobs.injected["damaged shard or index"] += 1
    assert refused > 150


def test_two_hundred_damaged_checkpoints(undisturbed, tmp_path):
    """The newest is passed over, or holds what it held."""
    whole = undisturbed("train").root / "run" / "checkpoints"
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)
    before, newest = checkpoint_files.steps(str(folder))[-2:]
    files = sorted(folder.glob(f"ckpt-{newest}.*"))
    expected = undisturbed("train").result
    rng = np.random.default_rng(1)
    passed_over = 0
    for trial in range(200):
        path = files[trial % len(files)]
        content = path.read_bytes()
        changed = damage(content, rng)
        path.write_bytes(changed)
        found = checkpoint_files.newest_whole(str(folder))
        assert found in (before, newest)
        if found == newest:
            reader = fault_jobs.tf.train.load_checkpoint(
                checkpoint_files.prefix_of(str(folder), newest)
            )
            for name in reader.get_variable_to_shape_map():
                if name in expected:
                    np.testing.assert_array_equal(reader.get_tensor(name), expected[name])
        else:
            passed_over += 1
        path.write_bytes(content)
        fault_jobs.injected["damaged checkpoint"] += 1
    assert passed_over > 100


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(jobs, undisturbed, tmp_path):
    job, whole = jobs["train"], undisturbed("train")
    shutil.copytree(whole.root / "run", tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "ckpt-12.data-00000-of-00001"
    path.write_bytes(damage(path.read_bytes(), np.random.default_rng(2)))
    fault_jobs.injected["damaged checkpoint"] += 1
    job.assert_same(job.finish(tmp_path), whole.result)


def test_a_manifest_edited_by_hand(made):
    """Every value of it replaced by others: refused with its name, or read as it was.

    The same command again writes it anew.
    """
    folder, make = made
    expected = read_all(str(folder))
    path = folder / "manifest.json"
    text = path.read_text("utf-8")
    rng = np.random.default_rng(3)

    def places(value, at=()):
        yield at
        items = value.items() if isinstance(value, dict) else ()
        items = enumerate(value[:2]) if isinstance(value, list) else items
        for key, inner in items:
            yield from places(inner, (*at, key))

    refused = 0
    for at in list(places(json.loads(text)))[1:]:
        for new in (None, -1, 10**6, 0.5, "../x", [], {}, "gone"):
            document = json.loads(text)
            inside = document
            for key in at[:-1]:
                inside = inside[key]
            if new == "gone":
                del inside[at[-1]]
            else:
                inside[at[-1]] = new
            path.write_text(json.dumps(document), "utf-8")
            try:
                found = read_all(str(folder))
            except errors.UserError as error:
                assert "manifest" in str(error) or str(folder) in str(error), (at, new, error)
                refused += 1
            else:
                # What no frame depends on (names, rates, flags of the run) is the editor's own.
                assert [x for x in found if x not in expected] == [], (at, new)
            fault_jobs.injected["manifest edited"] += 1
    for _ in range(30):
        path.write_bytes(damage(text.encode(), rng))
        try:
            assert [x for x in read_all(str(folder)) if x not in expected] == []
        except errors.UserError as error:
            assert str(folder) in str(error)
            refused += 1
        fault_jobs.injected["manifest edited"] += 1
    assert refused > 30
    make()
    assert path.read_text("utf-8") == text


def test_damaged_embeddings(undisturbed, tmp_path):
    whole = undisturbed("embed")
    folder = tmp_path / "found"
    shutil.copytree(whole.root, folder)
    files = sorted(folder.glob("all-*.tfrecord"))
    rng = np.random.default_rng(4)
    for _ in range(40):
        path = files[int(rng.integers(len(files)))]
        content = path.read_bytes()
        path.write_bytes(damage(content, rng))
        with pytest.raises(errors.UserError, match="all"):
            collection.load(str(folder / "all.tfrecord"))
        path.write_bytes(content)
        fault_jobs.injected["damaged embeddings"] += 1
    np.testing.assert_array_equal(
        collection.load(str(folder / "all.tfrecord"))["features"], whole.result["features"]
    )
