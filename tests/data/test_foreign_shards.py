"""Shards made by other programs: indexed in place, once, and as good as our own from then on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tce_tf import errors
from tce_tf.data import foreign_shards
from tce_tf.data.shard_reader import ShardReader


def _feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _example(images, *, label=None, text=None, media_id=None, timestamps=None):
    """A SequenceExample as DMVR and MediaSequence write it."""
    example = tf.train.SequenceExample()
    context = {"clip/label/index": label, "clip/label/text": text, "clip/media_id": media_id}
    for key, value in context.items():
        if value is not None:
            example.context.feature[key].CopyFrom(_feature(value))
    lists = {"WAVEFORM/feature/floats": [b"1", b"2"], "image/encoded": images}
    for key, values in (lists | {"image/timestamp": timestamps or []}).items():
        features = tf.train.FeatureList(feature=[_feature(value) for value in values])
        example.feature_lists.feature_list[key].CopyFrom(features)
    return example.SerializeToString()


def _write(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def _images(count, *, size=(16, 24), brightness=20):
    frames = [np.full((*size, 3), brightness + 15 * n, np.uint8) for n in range(count)]
    return [tf.io.encode_jpeg(frame).numpy() for frame in frames]


@pytest.fixture(name="folder")
def _folder(tmp_path):
    images = _images(5)
    for shard in range(2):
        records = [
            _example(images, label=0, text=b"L0"),
            _example(images, label=2, text=b"L2", timestamps=[7, 8, 9, 10, 11]),
        ]
        _write(tmp_path / f"k{shard}.tfrecord", records)
    return tmp_path


def test_they_are_indexed_and_stay_as_they_are(folder):
    before = (folder / "k0.tfrecord").read_bytes()
    assert foreign_shards.is_asked_for(str(folder), str(folder))
    with pytest.raises(errors.UserError, match="give it as --output"):
        foreign_shards.is_asked_for(str(folder), str(folder / "o"))
    foreign_shards.index_folder(str(folder))
    assert (folder / "k0.tfrecord").read_bytes() == before
    reader = ShardReader([str(folder)])
    assert reader.names == ["k0/00000", "k0/00001", "k1/00000", "k1/00001"]
    assert reader.class_names == ["L0", "class 1", "L2"]
    assert reader.labels.tolist() == [0, 2, 0, 2]
    assert (reader.heights[0], reader.widths[0]) == (16, 24)
    assert reader.read_frames([3] * 5, range(5)) == _images(5)
    assert reader.timestamps(1).tolist() == [7, 8, 9, 10, 11]
    assert reader.timestamps(0).tolist() == [40_000 * n for n in range(5)]


def test_a_second_run_changes_nothing_and_a_new_file_is_taken_in(folder):
    first = foreign_shards.index_folder(str(folder))
    times = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)}
    assert foreign_shards.is_asked_for(str(folder), str(folder))
    assert foreign_shards.index_folder(str(folder)) == first
    assert {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)} == times
    _write(folder / "k2.tfrecord", [_example(_images(3), media_id=b"mine")])
    assert foreign_shards.index_folder(str(folder)).videos[-1]["name"] == "mine"
    (folder / "k1.index.npy").unlink()
    foreign_shards.index_folder(str(folder))
    assert ShardReader([str(folder)]).read_frames([2], [0]) == _images(1)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([b"no example"], "k.tfrecord: .*SequenceExamples"),
        ([_example([])], "no image/encoded in the record at byte 12"),
        ([_example([b"no picture"])], "not JPEG"),
        ([_example(_images(1), label=-1)], "label -1 is not a class number"),
        (
            [_example(_images(1), label=1, text=t) for t in (b"a", b"b")],
            "label 1 is both 'a' and 'b'",
        ),
        ([], "hold no videos"),
    ],
)
def test_other_contents_are_refused(tmp_path, records, message):
    _write(tmp_path / "k.tfrecord", records)
    with pytest.raises(errors.UserError, match=message):
        foreign_shards.index_folder(str(tmp_path))
    assert not (tmp_path / "manifest.json").exists()


def test_compressed_files_are_refused(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"\x1f\x8b compressed or anything else")
    with pytest.raises(errors.UserError, match=r"a\.tfrecord.*uncompressed"):
        foreign_shards.index_folder(str(tmp_path))


def test_our_own_shards_are_not_foreign(synthetic_shards):
    assert not foreign_shards.is_asked_for(synthetic_shards["train"], synthetic_shards["train"])


def _run(command, *flags):
    done = subprocess.run(
        [sys.executable, "-m", f"tce_tf.{command}", *flags],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_they_train_after_indexing(tmp_path):
    """As a user does it: index in place, twice, then train two steps."""
    for shard in range(3):
        records = [
            _example(_images(6, size=(48, 64), brightness=10 * n + shard), media_id=b"%d" % n)
            for n in range(4)
        ]
        _write(tmp_path / f"dmvr-{shard}.tfrecord", records)
    index = ["make_tfrecords", f"--input={tmp_path}", f"--output={tmp_path}"]
    assert "indexed 12 videos, 72 frames" in _run(*index)
    assert "12 videos are indexed already" in _run(*index)
    _run(
        "train", f"--data={tmp_path}", f"--workdir={tmp_path}/run", "--image_size=32",
        "--batch_size=4", "--num_negatives=4", "--epochs=1", "--steps=2", "--log_every=1",
    )  # fmt: skip
    steps = [json.loads(line)["step"] for line in open(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [1, 2]
