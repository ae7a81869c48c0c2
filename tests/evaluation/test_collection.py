"""Is an embedded collection whole, whatever stops the run that makes it? Content, resume, refusals."""

import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from embedded import Frames, Levels, embed, open_writer

from tce_tf import errors
from tce_tf.data import storage
from tce_tf.evaluation import collection, embedding

VIDEOS = [10, 3, 7, 1]
CUT = {"batch_size": 3, "rows_per_shard": 4}  # shards end within videos


def content(folder):
    """Every file of a folder but for the lock."""
    return {
        name: (folder / name).read_bytes()
        for name in sorted(os.listdir(folder))
        if not name.endswith(".lock")
    }


def test_shards_and_npz_hold_the_same_rows_in_order(tmp_path):
    small = embed(Levels(), Frames(VIDEOS), tmp_path / "a" / "all.npz", batch_size=3)
    large = embed(Levels(), Frames(VIDEOS), tmp_path / "b" / "all.tfrecord", **CUT)
    for name, rows in small.items():
        np.testing.assert_array_equal(large[name], rows)
    levels = [10 * t for n in VIDEOS for t in range(n)]
    assert small["features"].tolist() == [[level, 1] for level in levels]
    np.testing.assert_allclose(np.linalg.norm(small["embeddings"], axis=1), 1, rtol=1e-6)
    assert small["names"].tolist() == [f"video {i}" for i, n in enumerate(VIDEOS) for _ in range(n)]
    assert small["timestamps"].tolist() == [t for n in VIDEOS for t in range(n)]
    assert small["features"].dtype == small["embeddings"].dtype == np.float32
    assert small["timestamps"].dtype == np.int64

    with np.load(tmp_path / "a" / "all.npz") as file:
        assert set(file) == {*collection.ARRAYS, "manifest"}
    manifest = json.loads((tmp_path / "b" / "all.json").read_text())
    assert manifest["complete"] and manifest["rows"] == 21
    # Full at four rows, and closed after whole batches of three or fewer.
    assert [shard["rows"] for shard in manifest["shards"]] == [6, 4, 6, 4, 1]
    continues = [shard["continues"] for shard in manifest["shards"]]
    assert continues == [True, False, True, False, False]
    assert os.listdir(tmp_path / "a") == ["all.npz"]


def test_shards_are_read_with_tensorflow_alone(tmp_path):
    expected = embed(Levels(), Frames(VIDEOS), tmp_path / "all.tfrecord", **CUT)
    spec = {
        "features": tf.io.FixedLenFeature([2], tf.float32),
        "embeddings": tf.io.FixedLenFeature([2], tf.float32),
        "name": tf.io.FixedLenFeature([], tf.string),
        "timestamp": tf.io.FixedLenFeature([], tf.int64),
    }
    files = sorted(tf.io.gfile.glob(f"{tmp_path}/all-*.tfrecord"))
    dataset = tf.data.TFRecordDataset(files).map(lambda x: tf.io.parse_single_example(x, spec))
    rows = list(dataset.as_numpy_iterator())
    np.testing.assert_array_equal([row["features"] for row in rows], expected["features"])
    np.testing.assert_array_equal([row["embeddings"] for row in rows], expected["embeddings"])
    assert [row["name"].decode() for row in rows] == expected["names"].tolist()
    assert [row["timestamp"] for row in rows] == expected["timestamps"].tolist()


def test_pooled_rows_are_means_of_unit_norm(tmp_path):
    frames = embed(Levels(), Frames(VIDEOS), tmp_path / "frames.npz")
    for ending in ("npz", "tfrecord"):
        path = tmp_path / f"videos.{ending}"
        rows = embed(Levels(), Frames(VIDEOS), path, pool="video", batch_size=3)
        for i, name in enumerate(rows["names"]):
            mine = frames["names"] == name
            np.testing.assert_allclose(rows["features"][i], frames["features"][mine].mean(axis=0))
            mean = frames["embeddings"][mine].mean(axis=0)
            np.testing.assert_allclose(
                rows["embeddings"][i], mean / np.linalg.norm(mean), rtol=1e-6
            )
        assert rows["timestamps"].tolist() == [0] * len(VIDEOS)


class Killed(BaseException):
    """A SIGKILL: nothing is cleared up after it."""


def run_until_killed(folder, encoder):
    """Embeds until something raises `Killed`; what a kill leaves open is left open."""
    found, writer = Frames(VIDEOS), None
    try:
        writer = open_writer(encoder, found, folder / "all.tfrecord", rows_per_shard=4)
        embedding.embed(encoder, found, writer, batch_size=3)
    except Killed:
        if writer:
            writer._lock.close()  # the system gives it back
        return True
    writer.__exit__()
    return False


@pytest.mark.parametrize("where", ["encoder", "before the shard", "before the manifest"])
def test_a_run_killed_anywhere_ends_as_one_never_stopped(where, tmp_path, monkeypatch):
    embed(Levels(), Frames(VIDEOS), tmp_path / "whole" / "all.tfrecord", **CUT)
    whole = content(tmp_path / "whole")
    assert list(whole) == [*(f"all-0000{i}.tfrecord" for i in range(5)), "all.json"]
    calls = [0]

    def kill_at(function, last, is_counted=lambda *_: True):
        def counted(*arguments):
            if is_counted(*arguments):
                calls[0] += 1
                if calls[0] == last:
                    raise Killed
            return function(*arguments)

        return counted

    for last in range(1, 12):
        folder = tmp_path / f"killed {last}"
        calls[0] = 0
        encoder = Levels()
        with monkeypatch.context() as patch:
            if where == "encoder":
                encoder.frames = kill_at(encoder.frames, last)
            else:
                of_shard = lambda path, to: to.endswith(".tfrecord")  # noqa: E731
                of_manifest = lambda path, to: to.endswith(".json")  # noqa: E731
                counted = of_shard if where == "before the shard" else of_manifest
                patch.setattr(storage, "publish", kill_at(storage.publish, last, counted))
            was_killed = run_until_killed(folder, encoder)
        if not was_killed:
            break
        embed(Levels(), Frames(VIDEOS), folder / "all.tfrecord", **CUT)
        found = content(folder)
        assert found == whole, last
        again = embed(Levels(0), Frames(VIDEOS), folder / "copy.npz")  # not the encoder of `all`
        assert len(again["names"]) == 21
    assert last == {"encoder": 10, "before the shard": 6, "before the manifest": 8}[where]


def test_only_what_is_missing_is_encoded(tmp_path):
    path = tmp_path / "all.tfrecord"
    embed(Levels(), Frames([4, 3]), path, batch_size=2)
    encoder = Levels()
    seen = []
    encoder.frames = lambda frames: seen.append(len(frames)) or Levels().frames(frames)
    rows = embed(encoder, Frames([4, 3, 5]), path, batch_size=2)
    assert seen == [2, 2, 1] and len(rows["names"]) == 12
    rows = embed(encoder, Frames([4, 3, 5]), path, batch_size=2)
    assert len(seen) == 3 and len(rows["names"]) == 12


def test_what_does_not_go_on_is_refused(tmp_path):
    path = tmp_path / "all.tfrecord"
    embed(Levels(), Frames(VIDEOS), path, **CUT)
    before = content(tmp_path)

    def refused(message, encoder=None, footage=None, path=path, **settings):
        with pytest.raises(errors.UserError, match=message) as error:
            embed(encoder or Levels(), footage or Frames(VIDEOS), path, **(CUT | settings))
        assert "\n" not in str(error.value)
        assert content(tmp_path) == before

    refused(r"all.tfrecord was begun with another encoder \(test\): use that one", Levels(2))
    refused("was begun with --pool=none, now it is video", pool="video")
    refused("was begun with --rows_per_shard=4, now it is 5", rows_per_shard=5)
    elsewhere = Frames(VIDEOS)
    elsewhere.root = "/elsewhere"
    refused("was begun with --input=/nowhere, now it is /elsewhere", footage=elsewhere)
    refused("video 1 changed since it was embedded into", footage=Frames([10, 4, 7, 1]))
    found = Frames(VIDEOS)
    with open_writer(Levels(), found, path, rows_per_shard=4):
        refused("another embed is writing to .*all.tfrecord")
    refused("must end in .npz or .tfrecord", path=tmp_path / "all.csv")

    (tmp_path / "all-00001.tfrecord").write_bytes(before["all-00001.tfrecord"][:-1])
    before = content(tmp_path)
    refused(r"all-00001.tfrecord is missing or not \d+ bytes long")
    (tmp_path / "all.json").unlink()
    before = content(tmp_path)
    refused("all-00000.tfrecord is there without its .*all.json")
    (tmp_path / "scores.json").write_text('{"knn.top1": 12.5}')
    before = content(tmp_path)
    refused("scores.json is not the manifest of an embedded", path=tmp_path / "scores.tfrecord")


def test_unreadable_videos_are_counted_and_bounded(tmp_path):
    videos = Frames([2, 0, 3, 0, 1])
    whole = embed(Levels(), Frames([2, 3, 1]), tmp_path / "good.npz")
    for ending in ("npz", "tfrecord"):
        path = tmp_path / f"all.{ending}"
        with pytest.raises(
            errors.UserError, match="2 of 5 videos cannot be read, more than --max_"
        ):
            embed(Levels(), videos, path, max_rejected_fraction=0.39)
        assert not collection.open_collection(str(path)).manifest["complete"]
        rows = embed(Levels(), videos, path, max_rejected_fraction=0.4)
        np.testing.assert_array_equal(rows["features"], whole["features"])
        manifest = collection.open_collection(str(path)).manifest
        assert manifest["complete"] and manifest["rejected"] == [
            {"path": "video 1.mp4", "reason": "it has no frames"},
            {"path": "video 3.mp4", "reason": "it has no frames"},
        ]
    with pytest.raises(errors.UserError, match="not one of 2 videos can be read; first: video 0"):
        embed(Levels(), Frames([0, 0]), tmp_path / "none.npz", max_rejected_fraction=1)
    assert not (tmp_path / "none.npz").exists()
    with pytest.raises(errors.UserError, match="/nowhere: video 0.mp4: it has no frames"):
        embed(Levels(), Frames([0]), tmp_path / "none.npz")
    with pytest.raises(errors.UserError, match="/nowhere: holds no video"):
        embed(Levels(), Frames([]), tmp_path / "none.npz")


def test_a_bar_moves_within_videos_and_ends_full(tmp_path, monkeypatch):
    class Shown:
        def __init__(self, total, unit):
            self.total, self.parts, self.frames = total, [], 0
            bars.append(self)

        def add(self, frames, items=1):
            self.frames += frames
            self.parts.append(items)

        def close(self):
            assert sum(self.parts) == pytest.approx(self.total)

    bars = []
    monkeypatch.setattr(embedding.progresses, "Progress", Shown)
    path = tmp_path / "all.tfrecord"
    embed(Levels(), Frames([8, 3]), path, batch_size=2, show_progress=True)
    unknown = Frames([8, 3, 6])
    unknown.num_frames = lambda number: 0  # as of a header that does not say
    embed(Levels(), unknown, path, batch_size=2, show_progress=True)
    first, second = bars
    assert first.total == 2 and first.frames == 11 and first.parts[:3] == [0.25] * 3
    assert second.total == 1 and second.frames == 6 and second.parts == [0, 0, 0, 1]


class Wide(Levels):
    def frames(self, frames):
        return {name: np.tile(rows, 32) for name, rows in super().frames(frames).items()}


def peak_bytes(num_frames, path):
    found = Frames([num_frames])
    tracemalloc.start()
    try:
        with open_writer(Wide(), found, path, rows_per_shard=1000) as writer:
            embedding.embed(Wide(), found, writer, batch_size=8)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    peak_bytes(300, tmp_path / "first.tfrecord")  # what is imported and cached once
    short = peak_bytes(300, tmp_path / "short.tfrecord")
    long = peak_bytes(6000, tmp_path / "long.tfrecord")
    # All frames would be 1.2 MB, all rows 3 MB.
    assert long < short + 300_000, (short, long)


def test_damage_is_one_line(tmp_path):
    path = tmp_path / "all.tfrecord"
    embed(Levels(), Frames(VIDEOS), path, **CUT)
    shard, manifest = tmp_path / "all-00001.tfrecord", tmp_path / "all.json"
    good, text = shard.read_bytes(), manifest.read_text()
    shard.write_bytes(good[:50] + b"\xff" + good[51:])
    with pytest.raises(errors.UserError, match="all-00001.tfrecord is damaged"):
        collection.load(str(path))
    shard.write_bytes(good)

    def refused(message, content, name="all.json"):
        (tmp_path / name).write_bytes(content)
        target = str(path) if name == "all.json" else str(tmp_path / name)
        with pytest.raises(errors.UserError, match=message):
            collection.load(target)

    refused("is not valid JSON", b"{")
    refused("is not the manifest", b"[]")
    refused("has format version 2, this program reads 1", text.replace(
        '"format_version": 1', '"format_version": 2').encode())  # fmt: skip
    # A manifest may come from anywhere: it does not lead to other folders' files.
    refused("names a shard '../all", text.replace('"all-00002', '"../all-00002').encode())
    for source in ("../video 2.mp4", "/video 2.mp4", "a/../../b"):
        refused("has a source", text.replace("video 2.mp4", source).encode())
    # Found by fuzzing.
    refused("no valid 'source'", text.replace('"source": ', '"sauce": ').encode())
    refused("no valid 'rows'", text.replace('"rows": 21', '"rows": null').encode())
    refused("is no readable .npz", b"no zip file", "b.npz")
    with pytest.raises(errors.UserError, match="c.npz does not exist"):
        collection.load(str(tmp_path / "c.npz"))
    np.savez(tmp_path / "d.npz", features=np.zeros([2, 3]))
    with pytest.raises(errors.UserError, match="has no array embeddings"):
        collection.load(str(tmp_path / "d.npz"))


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 9), }\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (10",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }\n",
        b"",
    ],
)
def test_no_array_in_an_npz_takes_what_it_claims(header, tmp_path):
    """An array of 360 TB, a header cut off, pickled objects, no header."""
    path = tmp_path / "a.npz"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(20)
    with zipfile.ZipFile(path, "w") as file:
        for name in collection.ARRAYS:
            file.writestr(f"{name}.npy", content)
    with pytest.raises(errors.UserError, match=r"a\.npz is no readable \.npz: \S"):
        collection.load(str(path))


@pytest.mark.parametrize("width", [-1, 2**20 + 1, 10**15])
def test_no_row_is_as_wide_as_a_manifest_claims(width, tmp_path):
    path = tmp_path / "all.tfrecord"
    embed(Levels(), Frames(VIDEOS), path, **CUT)
    manifest = tmp_path / "all.json"
    text = manifest.read_text()
    assert '"feature_width": 2' in text
    manifest.write_text(text.replace('"feature_width": 2', f'"feature_width": {width}'))
    with pytest.raises(errors.UserError, match="all.json is damaged: it has"):
        collection.load(str(path))
