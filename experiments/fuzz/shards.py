"""Which small shard folder do the readers of shards get? Two videos of few bytes, without decoding."""

import io
import os
import zlib

import numpy as np

from tce_tf.data import manifest as manifests
from tce_tf.data import shard_format

SHARD = "videos-00000-of-00001.tfrecord"
_FRAMES = (3, 2)


def make(folder: str) -> tuple[bytes, bytes]:
    """Writes the shard, its index and its manifest; returns the bytes of the last two."""
    shard, rows, videos = b"", [], []
    for number, count in enumerate(_FRAMES):
        jpegs = [bytes([number, frame]) * 20 for frame in range(count)]
        times = [40_000 * frame for frame in range(count)]
        context = {shard_format.MEDIA_ID: f"v{number}", shard_format.VIDEO_INDEX: number}
        record, offsets = shard_format.serialize_example(context, jpegs, times)
        for jpeg, offset, time in zip(jpegs, offsets, times, strict=True):
            start = len(shard) + shard_format.HEADER_BYTES + int(offset)
            rows.append((start, len(jpeg), zlib.crc32(jpeg), time))
        shard += shard_format.record_header(len(record)) + record
        shard += shard_format.record_footer(record)
        videos.append(
            {
                "name": f"v{number}",
                "video_index": number,
                "num_frames": count,
                "height": 48,
                "width": 64,
                "frame_rate": 25.0,
                "label": number,
                "group": None,
                "shard": SHARD,
                "checksum": "00",
                "truncated": False,
            }
        )
    manifest = manifests.Manifest(
        arguments={},
        class_names=["a", "b"],
        num_rows=2,
        num_rejected=0,
        shards=[{"file": SHARD, "length": len(shard)}],
        videos=videos,
    )
    index = io.BytesIO()
    np.save(index, np.array(rows, shard_format.INDEX_DTYPE))
    with open(os.path.join(folder, SHARD), "wb") as file:
        file.write(shard)
    with open(os.path.join(folder, manifests.index_name(SHARD)), "wb") as file:
        file.write(index.getvalue())
    manifests.write(folder, manifest)
    return index.getvalue(), manifests.to_json(manifest).encode()


def record() -> bytes:
    """A serialized record of two frames."""
    return shard_format.serialize_example({shard_format.MEDIA_ID: "v"}, [b"ab", b"c"], [0, 40])[0]
