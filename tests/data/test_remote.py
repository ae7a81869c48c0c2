"""Remote paths: what is missing is said in one line; a store is written and read through TensorFlow.

A `file://` path is remote to our code and read through TensorFlow, on both stacks. `s3://` itself is
tested through the commands in tests/test_s3.py.
"""

import os
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny_videos

from tce_tf import errors
from tce_tf.data import conversion, foreign_shards, plan, remote, shard_file, storage
from tce_tf.data.shard_reader import ShardReader


@pytest.fixture(name="clips")
def _clips(tmp_path):
    for number in range(4):
        tiny_videos.write_video(tmp_path / "in" / f"{number}.mp4", frames=3 + number)
    return str(tmp_path / "in")


@pytest.fixture(name="store")
def _store(tmp_path):
    return f"file://{tmp_path}/store"


def test_an_unknown_file_system_is_one_line():
    with pytest.raises(errors.UserError, match="s4://"):
        storage.read_bytes("s4://bucket/file")


def test_without_tensorflow_io_one_line_says_what_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    with pytest.raises(errors.UserError, match="s5:// paths need tensorflow-io.*Python 3.11"):
        ShardReader(["s5://bucket/train"])


def test_where_only_a_disk_works_the_flag_is_named():
    remote.require_local("folder", "input", "videos")
    with pytest.raises(errors.UserError, match=r"--input=gs://a/b: must be videos on a local disk"):
        remote.require_local("gs://a/b", "input", "videos")


def test_files_and_folders(store):
    root = f"{store}/files"
    storage.make_folder(f"{root}/a")
    storage.write_atomic(f"{root}/a/x", b"12345")
    storage.make_folder(f"{root}/a/b")
    storage.write_atomic(f"{root}/a/b/y", b"")
    assert storage.read_bytes(f"{root}/a/x") == b"12345"
    assert (storage.size(f"{root}/a/x"), storage.size(f"{root}/a/none")) == (5, None)
    assert storage.sizes(f"{root}/a") == {"x": 5}
    assert storage.names(f"{root}/a") == ["b", "x"] and storage.names(f"{root}/none") == []
    assert storage.exists(f"{root}/a/x") and not storage.exists(f"{root}/a/z")
    for fail in (storage.read_bytes, storage.sizes):
        with pytest.raises(errors.UserError, match=f"{root}/none"):
            fail(f"{root}/none")


def test_a_folder_is_published_with_its_marker_last(tmp_path, store, monkeypatch):
    (tmp_path / "t" / "sub").mkdir(parents=True)
    for name in ("marker", "a", "sub/z"):
        (tmp_path / "t" / name).write_text(name)
    order = []
    publish = storage.publish
    monkeypatch.setattr(
        storage, "publish", lambda local, path: (order.append(path), publish(local, path))
    )
    storage.make_folder(f"{store}/1/sub")  # a file system, unlike a store, wants its folders
    storage.publish_folder(str(tmp_path / "t"), f"{store}/1", last="marker")
    assert [path.removeprefix(f"{store}/1/") for path in order] == ["a", "sub/z", "marker"]
    assert storage.read_bytes(f"{store}/1/sub/z") == b"sub/z"
    assert not (tmp_path / "t").exists()


def test_lines_are_uploaded_now_and_then_and_when_synced(store):
    now = [0.0]
    path = f"{store}/metrics.jsonl"
    storage.make_folder(store)
    storage.write_atomic(path, b"0\n")
    lines = storage.Appender(path, clock=lambda: now[0])
    lines.write("1\n")
    assert storage.read_bytes(path) == b"0\n"
    lines.sync()
    assert storage.read_bytes(path) == b"0\n1\n"
    lines.write("2\n")
    now[0] = 60.0
    lines.write("3\n")
    assert storage.read_bytes(path) == b"0\n1\n2\n3\n"
    lines.write("4\n")
    lines.close()
    assert storage.read_bytes(path) == b"0\n1\n2\n3\n4\n"


def test_remote_shards_are_those_of_a_local_run(clips, tmp_path, store):
    def make(output):
        options = plan.Options(clips, str(output), short_side=24, num_shards=2)
        return conversion.make_tfrecords(options, num_workers=1)

    manifest = make(tmp_path / "out")
    remote_folder = f"{store}/train"
    assert make(remote_folder) == manifest
    for entry in os.scandir(tmp_path / "out"):
        if entry.is_file():
            path = f"{remote_folder}/{entry.name}"
            assert storage.read_bytes(path) == open(entry.path, "rb").read()
    make(remote_folder)  # nothing is left to do
    here, there = ShardReader([str(tmp_path / "out")]), ShardReader([remote_folder])
    videos = np.repeat(np.arange(4), here.num_frames)
    frames = np.concatenate([np.arange(n) for n in here.num_frames])
    order = np.random.default_rng(0).permutation(len(videos))
    expected = here.read_frames(videos[order], frames[order])
    assert there.read_frames(videos[order], frames[order]) == expected


def test_neighbouring_remote_frames_are_one_request(clips, store, monkeypatch):
    folder = f"{store}/train"
    conversion.make_tfrecords(plan.Options(clips, folder, short_side=24), num_workers=1)
    reads = []
    read = shard_file.ShardFile.read

    def counted(self, offset, length):
        reads.append((offset, length))
        return read(self, offset, length)

    monkeypatch.setattr(shard_file.ShardFile, "read", counted)
    assert len(ShardReader([folder]).read_frames([0, 3, 0, 3], [1, 2, 0, 3])) == 4
    assert len(reads) == 1
    monkeypatch.setattr(shard_file, "_MERGED_BYTES", 1)  # only what touches
    ShardReader([folder]).read_frames([0, 3], [1, 2])
    assert len(reads) == 3


def test_foreign_shards_in_a_store_are_indexed_there(tmp_path, store):
    image = tf.io.encode_jpeg(np.full((16, 24, 3), 90, np.uint8)).numpy()
    example = tf.train.SequenceExample()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    example.feature_lists.feature_list["image/encoded"].feature.append(feature)
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        writer.write(example.SerializeToString())
    storage.make_folder(store)
    storage.write_atomic(f"{store}/a.tfrecord", (tmp_path / "a").read_bytes())
    assert foreign_shards.is_asked_for(store, f"{store}/")
    foreign_shards.index_folder(store)
    assert ShardReader([store]).read_frames([0], [0]) == [image]
