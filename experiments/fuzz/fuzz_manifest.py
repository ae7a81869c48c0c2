"""Do readers survive every manifest, of shards or embedded footage? See `harness` for how to run."""

import copy
import json
import math
import os

import atheris

with atheris.instrument_imports(include=["tce_tf"]):
    from tce_tf.data import manifest as manifests
    from tce_tf.data import shard_reader
    from tce_tf.evaluation import collection

from experiments.fuzz import harness, shards
from tce_tf import errors

_FOLDER = harness.fast_folder()
_, _MANIFEST = shards.make(_FOLDER)
_COLLECTION = {
    "format_version": collection.FORMAT_VERSION,
    "complete": True,
    "encoder": "exported/a",
    "encoder_weights": "00",
    "pool": "none",
    "root": "/videos",
    "feature_width": 2,
    "embedding_width": 2,
    "rows": 1,
    "rejected": [],
    "shards": [
        {
            "file": "all-00000.tfrecord",
            "length": 9,
            "rows": 1,
            "continues": False,
            "videos": [{"name": "a", "source": "a.mp4", "rows": 1, "stamp": [1, 2]}],
        }
    ],
}


_VALUES = (None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, math.inf, math.nan,
           "", "..", "/", "a/b", "../x", "\ud800", "\0", [], {}, [[]], [{}], [None])  # fmt: skip


def test_one(data: bytes) -> None:
    """Opens a shard folder, or embedded footage, whose manifest the data are, or are edits of."""
    kind, content = data[:1], data[1:]
    if kind in (b"S", b"C"):
        document = json.loads(_MANIFEST) if kind == b"S" else copy.deepcopy(_COLLECTION)
        _edit(document, atheris.FuzzedDataProvider(content))
        kind, content = kind.lower(), json.dumps(document).encode()
    try:
        if kind == b"s":
            with open(os.path.join(_FOLDER, manifests.FILE_NAME), "wb") as file:
                file.write(content)
            reader = shard_reader.ShardReader([_FOLDER])
            for video, count in enumerate(reader.num_frames):
                reader.timestamps(video)
                reader.read_frames([video], [count - 1])
        else:
            manifest = collection.parse_manifest(content, "all.json")
            collection.check_shards(os.path.join(_FOLDER, "all.tfrecord"), manifest)
    except (errors.UserError, shard_reader.FrameError):
        pass


def _edit(document, choices) -> None:
    """Puts other values into a few places of a document."""
    for _ in range(choices.ConsumeIntInRange(1, 4)):
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = keys[choices.ConsumeIntInRange(0, len(keys) - 1)]
            if isinstance(node[key], dict | list) and choices.ConsumeProbability() < 0.8:
                node = node[key]
                continue
            action = choices.ConsumeIntInRange(0, 9)
            if action == 0:
                del node[key]
            elif action == 1:
                node[key] = choices.ConsumeUnicode(20)
            elif action == 2:
                node[key] = choices.ConsumeInt(8)
            elif action == 3 and isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
            else:
                node[key] = copy.deepcopy(_VALUES[choices.ConsumeIntInRange(0, len(_VALUES) - 1)])
            break


if __name__ == "__main__":
    compact = json.dumps(json.loads(_MANIFEST)).encode()
    whole = [b"s" + _MANIFEST, b"s" + compact, b"c" + json.dumps(_COLLECTION).encode()]
    harness.run(
        test_one, [*whole, *(k + bytes(range(i, 60 + i)) for k in (b"S", b"C") for i in range(9))]
    )
