"""The hand-written bytes against TensorFlow's own serializer, parser and TFRecord reader."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tce_tf.data import shard_format

_CONTEXT = {
    shard_format.MEDIA_ID: "class/clip ä",
    shard_format.LABEL_INDEX: 3,
    shard_format.LABEL_TEXT: b"run",
    shard_format.FRAME_RATE: 29.97,
    shard_format.CLIP_START: -5,
    shard_format.VIDEO_INDEX: 2**40,
}
_I64 = st.integers(-(2**63), 2**63 - 1)
_VALUES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=20),
    _I64,
    st.floats(width=32, allow_nan=False),
)
_FRAMES = st.lists(st.tuples(st.binary(max_size=300), _I64), max_size=8)


def _oracle(context, jpegs, timestamps):
    def feature(value):
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def feature_list(values):
        return tf.train.FeatureList(feature=[feature(value) for value in values])

    return tf.train.SequenceExample(
        context=tf.train.Features(feature={k: feature(v) for k, v in context.items()}),
        feature_lists=tf.train.FeatureLists(
            feature_list={
                shard_format.IMAGE_ENCODED: feature_list(jpegs),
                shard_format.IMAGE_TIMESTAMP: feature_list(timestamps),
            }
        ),
    )


@given(st.dictionaries(st.text(max_size=20), _VALUES, max_size=6), _FRAMES)
def test_any_example_equals_protobufs(context, frames):
    jpegs, timestamps = [j for j, _ in frames], [t for _, t in frames]
    record, offsets = shard_format.serialize_example(context, jpegs, timestamps)
    assert offsets.tolist() == shard_format.frame_spans(record)[0].tolist()
    oracle = _oracle(context, jpegs, timestamps)
    assert tf.train.SequenceExample.FromString(record) == oracle
    # Not byte for byte: the order of map entries is protobuf's own, ours is the keys'.
    assert sorted(record) == sorted(oracle.SerializeToString())
    again, _ = shard_format.serialize_example(dict(reversed(context.items())), jpegs, timestamps)
    assert record == again


@given(_FRAMES, st.integers(0, 2**50))
def test_index_finds_every_frame(frames, record_offset):
    jpegs, timestamps = [j for j, _ in frames], [t for _, t in frames]
    for record in (
        shard_format.serialize_example(_CONTEXT, jpegs, timestamps)[0],
        _oracle(_CONTEXT, jpegs, timestamps).SerializeToString(),
    ):
        rows = shard_format.index_rows(record, record_offset)
        starts = [int(offset) - record_offset for offset in rows["offset"]]
        ends = [s + int(length) for s, length in zip(starts, rows["length"], strict=True)]
        assert [record[s:e] for s, e in zip(starts, ends, strict=True)] == jpegs
        assert rows["crc"].tolist() == [zlib.crc32(jpeg) for jpeg in jpegs]
        assert rows["timestamp"].tolist() == timestamps


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 500), st.integers(0, 255))
def test_any_bytes_index_or_are_refused(noise, position, value):
    record = bytearray(shard_format.serialize_example(_CONTEXT, [noise, b"x"], [0, 1])[0])
    record[position % len(record)] = value
    for data in (noise, bytes(record), bytes(record[: position % len(record)])):
        try:
            rows = shard_format.index_rows(data, 0)
        except shard_format.FormatError:
            continue
        assert all(int(row["offset"]) + int(row["length"]) <= len(data) for row in rows)


def test_missing_time_stamps_become_even():
    oracle = _oracle(_CONTEXT, [b"a", b"b", b"c"], [])
    rows = shard_format.index_rows(oracle.SerializeToString(), 0, 50)
    assert rows["timestamp"].tolist() == [0, 50, 100]


def test_as_many_times_as_frames():
    with pytest.raises(ValueError, match="1 frames but 2"):
        shard_format.serialize_example({}, [b"a"], [1, 2])


def test_tensorflow_reads_our_records_and_we_read_its(tmp_path):
    records = [b"", b"first", bytes(range(256)) * 300]
    ours, theirs = str(tmp_path / "a.tfrecord"), str(tmp_path / "b.tfrecord")
    with open(ours, "wb") as file:
        for record in records:
            file.write(shard_format.record_header(len(record)) + record)
            file.write(shard_format.record_footer(record))
    assert [r.numpy() for r in tf.data.TFRecordDataset(ours)] == records
    with tf.io.TFRecordWriter(theirs) as writer:
        for record in records:
            writer.write(record)
    data = open(theirs, "rb").read()
    assert data == open(ours, "rb").read()
    with open(ours, "rb") as file:
        found = list(shard_format.read_records(file))
    assert [record for _, record in found] == records
    for offset, record in found:
        assert data[offset : offset + len(record)] == record


@pytest.mark.parametrize("damage", ["header", "data", "end", "text"])
def test_damaged_record_files(tmp_path, damage):
    record = b"x" * 100
    data = bytearray(shard_format.record_header(100) + record + shard_format.record_footer(record))
    if damage in ("header", "data"):
        data[3 if damage == "header" else 50] ^= 1
    (tmp_path / "a").write_bytes(
        {"end": bytes(data[:60]), "text": b"hello, I am no record"}.get(damage, bytes(data))
    )
    with open(tmp_path / "a", "rb") as file:
        with pytest.raises(shard_format.FormatError, match="byte"):
            list(shard_format.read_records(file))


def test_index_dtype_is_fixed():
    assert shard_format.INDEX_DTYPE.itemsize == 24
    assert np.dtype(shard_format.INDEX_DTYPE).names == ("offset", "length", "crc", "timestamp")
