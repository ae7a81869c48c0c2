"""What are the bytes of a record, of a shard and of its index?

A video is one `tf.train.SequenceExample` with the MediaSequence/DMVR keys, a shard is a TFRecord
file of them, and the index holds one row a frame: where its JPEG lies *inside* the shard.

The few protobuf messages needed are written and walked here by hand, without TensorFlow: the
decoding workers start in a fraction of a second, the bytes are the same everywhere (protobuf leaves
the order of map entries open), and the frames' offsets fall out of the walk. The tests compare with
TensorFlow's own serializer, parser and TFRecord reader.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import google_crc32c
import numpy as np

# Sequence (per frame) features.
IMAGE_ENCODED = "image/encoded"
IMAGE_TIMESTAMP = "image/timestamp"
# Context (per video) features.
MEDIA_ID = "clip/media_id"
VIDEO_FILENAME = "video/filename"
LABEL_INDEX = "clip/label/index"
LABEL_TEXT = "clip/label/text"
IMAGE_HEIGHT = "image/height"
IMAGE_WIDTH = "image/width"
FRAME_RATE = "image/frame_rate"
CLIP_START = "clip/start/timestamp"
CLIP_END = "clip/end/timestamp"
VIDEO_INDEX = "tce/video_index"

MAX_RECORD_BYTES = (
    2**30
)  # protobuf's own limit is 2 GiB; readers of whole records need several copies

HEADER_BYTES = 12  # length, masked CRC of the length
FOOTER_BYTES = 4  # masked CRC of the data

# One row a frame, in the order of the records and of the frames in them. `offset` counts from the
# start of the shard file; `crc` is zlib.crc32 of the JPEG; `timestamp` is in microseconds.
INDEX_DTYPE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4"), ("timestamp", "<i8")])


class FormatError(Exception):
    """Bytes that are no whole TFRecord file or SequenceExample; the message says where."""


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative int64 take ten bytes, as protobuf has it
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _head(number: int, length: int) -> bytes:
    """What stands before the content of a length-delimited field (wire type 2)."""
    return bytes([number << 3 | 2]) + _varint(length)


def _heads(length: int, numbers: tuple[int, ...]) -> bytes:
    """The heads of fields within fields around a content of that length, innermost last."""
    heads = b""
    for number in reversed(numbers):
        heads = _head(number, length + len(heads)) + heads
    return heads


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field (wire type 2)."""
    return _head(number, len(content)) + content


def _feature(value: bytes | str | int | float) -> bytes:
    """A tf.train.Feature with one value: bytes_list = 1, float_list = 2, int64_list = 3."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    if isinstance(value, float):
        return _field(2, _field(1, struct.pack("<f", value)))
    return _field(3, _field(1, _varint(int(value))))


def serialize_example(
    context: Mapping[str, bytes | str | int | float],
    jpegs: Sequence[bytes],
    timestamps: Sequence[int],
) -> tuple[bytes, np.ndarray]:
    """A SequenceExample's bytes; the same input gives the same bytes everywhere.

    Args:
      context: one value a key; entries are written in order of the key.
      jpegs: T encoded frames.
      timestamps: T times in microseconds.

    Returns:
      The record, and the offset of each JPEG in it, int64 [T].

    Raises:
      ValueError: as many time stamps as frames are needed.
    """
    if len(jpegs) != len(timestamps):
        raise ValueError(f"{len(jpegs)} frames but {len(timestamps)} time stamps")

    def map_entry(key: str, message: bytes) -> bytes:
        return _field(1, _field(1, key.encode()) + _field(2, message))

    context_bytes = b"".join(map_entry(key, _feature(context[key])) for key in sorted(context))
    times = b"".join(_field(1, _feature(int(timestamp))) for timestamp in timestamps)
    # The frames are most of the record: their bytes are copied once, in the last line, so every
    # length around them is added up first.
    heads = [_heads(len(jpeg), (1, 1, 1)) for jpeg in jpegs]
    sizes = np.array([len(h) + len(j) for h, j in zip(heads, jpegs, strict=True)], np.int64)
    key = _field(1, IMAGE_ENCODED.encode())
    list_head = _head(2, int(sizes.sum()))
    entry_head = _head(1, len(key) + len(list_head) + int(sizes.sum())) + key + list_head
    time_entry = map_entry(IMAGE_TIMESTAMP, times)
    lists_head = _head(2, len(entry_head) + int(sizes.sum()) + len(time_entry))
    front = _field(1, context_bytes) + lists_head + entry_head
    pieces = [piece for pair in zip(heads, jpegs, strict=True) for piece in pair]
    offsets = len(front) + np.cumsum(sizes) - [len(jpeg) for jpeg in jpegs]
    return b"".join([front, *pieces, time_entry]), offsets.astype(np.int64)


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= end or shift > 63:
            raise FormatError(f"bad number at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), position
        shift += 7


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Walks one message: (field number, wire type, start, end of the content) of each field."""
    position = start
    while position < end:
        tag, position = _read_varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        content = position
        if wire_type == 0:
            _, position = _read_varint(data, position, end)
        elif wire_type == 2:
            length, content = _read_varint(data, position, end)
            position = content + length
        elif wire_type in (1, 5):
            position = content + (8 if wire_type == 1 else 4)
        else:
            raise FormatError(f"unknown wire type {wire_type} at byte {position}")
        if position > end:
            raise FormatError(f"a field ends beyond its message at byte {content}")
        yield number, wire_type, content, position


def _only(data: memoryview, start: int, end: int, number: int) -> tuple[int, int]:
    """Content bounds of a message's (last) field of that number; an empty span when it has none."""
    found = (start, start)
    for field_number, wire_type, content, content_end in _fields(data, start, end):
        if field_number == number and wire_type == 2:
            found = (content, content_end)
    return found


def _feature_lists(data: memoryview) -> dict[str, tuple[int, int]]:
    """Bounds of each FeatureList of a SequenceExample, by key."""
    lists = {}
    for number, _, start, end in _fields(data, 0, len(data)):
        if number != 2:
            continue
        for _, _, entry, entry_end in _fields(data, start, end):
            key_start, key_end = _only(data, entry, entry_end, 1)
            key = bytes(data[key_start:key_end]).decode("utf-8", "replace")
            lists[key] = _only(data, entry, entry_end, 2)
    return lists


def context_span(record: bytes) -> tuple[int, int]:
    """Start and end of the context message (a `tf.train.Features`) within a SequenceExample.

    Raises:
      FormatError: the bytes are no SequenceExample.
    """
    view = memoryview(record)
    return _only(view, 0, len(view), 1)


def frame_spans(record: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Where each frame's JPEG lies in a serialized SequenceExample.

    Args:
      record: the serialized message, from this program or any other.

    Returns:
      offsets uint64 [T] and lengths uint64 [T] in bytes within the record, and timestamps int64
      [T] in microseconds, or None when the record has no time stamp for every frame.

    Raises:
      FormatError: the bytes are no SequenceExample.
    """
    view = memoryview(record)
    lists = _feature_lists(view)
    spans, times = [], []
    for _, _, feature, feature_end in _fields(view, *lists.get(IMAGE_ENCODED, (0, 0))):
        bytes_list = _only(view, feature, feature_end, 1)
        values = [
            (start, end) for number, _, start, end in _fields(view, *bytes_list) if number == 1
        ]
        if len(values) != 1:
            raise FormatError(f"frame {len(spans)} has {len(values)} images instead of one")
        spans.append(values[0])
    for _, _, feature, feature_end in _fields(view, *lists.get(IMAGE_TIMESTAMP, (0, 0))):
        int64_list = _only(view, feature, feature_end, 3)
        for number, _, start, end in _fields(view, *int64_list):
            if number == 1:  # packed or not, the first varint of the content is the value
                value, _ = _read_varint(view, start, end)
                times.append(value - 2**64 if value >= 2**63 else value)
    bounds = np.array(spans, np.uint64).reshape(-1, 2)
    timestamps = np.array(times, np.int64) if len(times) == len(spans) else None
    return bounds[:, 0], bounds[:, 1] - bounds[:, 0], timestamps


def index_rows(record: bytes, record_offset: int, default_interval_us: int = 40_000) -> np.ndarray:
    """The index of one record.

    Args:
      record: a serialized SequenceExample.
      record_offset: where its bytes (not its TFRecord header) start in the shard file.
      default_interval_us: time between frames when the record has no time stamps.

    Returns:
      INDEX_DTYPE [T].

    Raises:
      FormatError: the bytes are no SequenceExample with images.
    """
    offsets, lengths, timestamps = frame_spans(record)
    rows = np.zeros(len(offsets), INDEX_DTYPE)
    view = memoryview(record)
    rows["offset"] = offsets + np.uint64(record_offset)
    rows["length"] = lengths
    rows["timestamp"] = (
        np.arange(len(rows)) * default_interval_us if timestamps is None else timestamps
    )
    spans = zip(offsets.tolist(), (offsets + lengths).tolist(), strict=True)
    rows["crc"] = [zlib.crc32(view[start:end]) for start, end in spans]
    return rows


def _masked_crc(data: bytes) -> int:
    # TensorFlow rotates and shifts CRC-32C, so that a CRC of data that hold CRCs stays meaningful.
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record_header(length: int) -> bytes:
    """The 12 bytes before a record of `length` bytes."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", _masked_crc(packed))


def record_footer(record: bytes) -> bytes:
    """The 4 bytes after a record."""
    return struct.pack("<I", _masked_crc(record))


def read_records(file: BinaryIO, verify: bool = True) -> Iterator[tuple[int, bytes]]:
    """Every record of an open TFRecord file, with the offset of its bytes in the file.

    Raises:
      FormatError: not a TFRecord file, truncated, or a CRC that does not match; the message holds
        the offset, the caller adds the file's name.
      OSError: the file cannot be read.
    """
    offset = 0
    while header := file.read(HEADER_BYTES):
        length = struct.unpack("<Q", header[:8])[0] if len(header) == HEADER_BYTES else 0
        if header != record_header(length):
            raise FormatError(f"no TFRecord header at byte {offset}")
        if length > 2**31:
            raise FormatError(f"a record of {length} bytes at byte {offset}")
        record, footer = file.read(length), file.read(FOOTER_BYTES)
        if len(record) < length or len(footer) < FOOTER_BYTES:
            raise FormatError(f"the file ends within the record at byte {offset}")
        if verify and footer != record_footer(record):
            raise FormatError(f"wrong checksum of the record at byte {offset}")
        yield offset + HEADER_BYTES, record
        offset += HEADER_BYTES + length + FOOTER_BYTES
