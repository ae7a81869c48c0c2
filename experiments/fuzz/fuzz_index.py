"""Does a reader survive every index and every record? See `harness` for how to run it."""

import io
import os

import atheris

with atheris.instrument_imports(include=["tce_tf", "numpy.lib"]):
    import numpy.lib.format  # noqa: F401 -- to be instrumented

    from tce_tf.data import manifest as manifests
    from tce_tf.data import shard_format, shard_reader

from experiments.fuzz import harness, shards
from tce_tf import errors

_FOLDER = harness.fast_folder()
_INDEX, _ = shards.make(_FOLDER)
_INDEX_PATH = os.path.join(_FOLDER, manifests.index_name(shards.SHARD))


def test_one(data: bytes) -> None:
    """Reads an index, a TFRecord file or a record, told apart by the first byte."""
    kind, content = data[:1], data[1:]
    try:
        if kind == b"i":
            with open(_INDEX_PATH, "wb") as file:
                file.write(content)
            reader = shard_reader.ShardReader([_FOLDER])
            for video, count in enumerate(reader.num_frames):
                reader.timestamps(video)
                for frame in range(count):
                    reader.read_frames([video], [frame])
        elif kind == b"t":
            for _ in shard_format.read_records(io.BytesIO(content), verify=False):
                pass
        else:
            shard_format.context_span(content)
            shard_format.index_rows(content, 12)
    except (errors.UserError, shard_reader.FrameError, shard_format.FormatError):
        pass


if __name__ == "__main__":
    record = shards.record()
    framed = shard_format.record_header(len(record)) + record + shard_format.record_footer(record)
    harness.run(test_one, [b"i" + _INDEX, b"t" + framed, b"r" + record])
