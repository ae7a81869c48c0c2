"""What does `manifest.json` hold, and is a given one sound?

The manifest is written last, so a folder that has one is complete. It is the only description of a
folder's videos that readers need; the records repeat it for readers of other projects.
"""

import dataclasses
import json

from tce_tf import errors
from tce_tf.data import pictures, storage

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
_MAX_COUNT = 2**31 - 1  # frames of a video, rows of a bank, Hz: beyond what can be meant

# key -> accepted types. bool is an int in Python, so it is told apart explicitly in `_check`.
_VIDEO_FIELDS = {
    "name": (str,),
    "video_index": (int,),
    "num_frames": (int,),
    "height": (int,),
    "width": (int,),
    "frame_rate": (int, float),
    "label": (int, type(None)),
    "group": (str, type(None)),
    "shard": (str,),
    "checksum": (str,),
    "truncated": (bool,),
}
_SHARD_FIELDS = {"file": (str,), "length": (int,)}
_TOP_FIELDS = {
    "arguments": (dict,),
    "class_names": (list,),
    "num_rows": (int,),
    "num_rejected": (int,),
    "shards": (list,),
    "videos": (list,),
}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A shard folder's content.

    Attributes:
      arguments: the flags that decide the shards' bytes, by name.
      class_names: names in label order; empty for unlabelled videos.
      num_rows: bank rows the folder takes; every `video_index` is below it. Rows of rejected
        clips stay unused, so that the others keep their number when such a clip is repaired.
      num_rejected: clips that gave no video; `rejected.csv` lists them with reasons.
      shards: `{file, length}` in order; `length` in bytes.
      videos: one dict a stored video, in order of `video_index` and of its record: `name`,
        `video_index`, `num_frames`, `height` and `width` (px), `frame_rate` (Hz), `label` (int or
        None), `group` (str or None), `shard` (file name), `checksum` (SHA-256 of its JPEGs in
        order, hex), `truncated` (only a part could be decoded).
    """

    arguments: dict
    class_names: list[str]
    num_rows: int
    num_rejected: int
    shards: list[dict]
    videos: list[dict]

    @property
    def num_frames(self) -> int:
        """Frames over all videos."""
        return sum(video["num_frames"] for video in self.videos)


def index_name(shard_file: str) -> str:
    """The index file of a shard: `train-00000-of-00002.index.npy` for `....tfrecord`."""
    return shard_file.removesuffix(".tfrecord") + ".index.npy"


def to_json(manifest: Manifest) -> str:
    """The file's text: one line a video, so that it can be read, searched and compared by line."""
    head = {
        "format_version": FORMAT_VERSION,
        "arguments": manifest.arguments,
        "class_names": manifest.class_names,
        "num_rows": manifest.num_rows,
        "num_videos": len(manifest.videos),
        "num_frames": manifest.num_frames,
        "num_rejected": manifest.num_rejected,
        "num_truncated": sum(video["truncated"] for video in manifest.videos),
    }
    lines = json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    for key in ("shards", "videos"):
        entries = ",\n".join(
            "  " + json.dumps(e, ensure_ascii=False) for e in getattr(manifest, key)
        )
        lines += f',\n "{key}": [\n{entries}\n ]'
    return lines + "\n}\n"


def write(folder: str, manifest: Manifest) -> None:
    """Writes a folder's manifest, whole or not at all.

    Raises:
      errors.UserError: the folder cannot be written.
    """
    storage.write_atomic(storage.join(folder, FILE_NAME), to_json(manifest).encode())


def read(folder: str) -> Manifest:
    """Reads and checks a folder's manifest.

    Raises:
      errors.UserError: no such folder or manifest, another format version, or a bad content; the
        message names the file and the first fault.
    """
    path = storage.join(folder, FILE_NAME)
    if FILE_NAME not in storage.sizes(folder):
        raise errors.UserError(
            f"{folder} holds no {FILE_NAME}: it is no finished shard folder; run make_tfrecords"
        )
    try:
        document = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise errors.UserError(
            f"{path} is not valid JSON ({error}); make the shards again"
        ) from error
    return parse(document, path)


def parse(document: object, path: str) -> Manifest:
    """Checks a decoded manifest.

    Args:
      document: what `json.loads` gave.
      path: named in error messages.

    Raises:
      errors.UserError: another format version or a bad content.
    """
    if not isinstance(document, dict) or "format_version" not in document:
        raise errors.UserError(f"{path} is not a shard manifest: it has no format_version")
    version = document["format_version"]
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise errors.UserError(
            f"{path} has format version {version!r}, this program reads {FORMAT_VERSION}; make the "
            "shards again with its make_tfrecords"
        )
    _check(document, _TOP_FIELDS, path, "")
    manifest = Manifest(**{key: document[key] for key in _TOP_FIELDS})
    class_names = manifest.class_names
    if not all(isinstance(name, str) for name in class_names):
        raise _bad(path, "class_names", "holds something other than names")
    if not 0 <= manifest.num_rows <= _MAX_COUNT:
        raise _bad(path, "num_rows", f"is {manifest.num_rows}")
    if len(set(class_names)) != len(class_names):
        raise _bad(path, "class_names", "names a class twice")
    for position, shard in enumerate(manifest.shards):
        where = f"shards[{position}]"
        _check(shard, _SHARD_FIELDS, path, where)
        # A manifest may come from anywhere: it must not make a reader open other folders' files.
        if not _is_plain_name(shard["file"]) or shard["length"] < 0:
            raise _bad(
                path, where, f"has a bad file or length: {shard['file']!r}, {shard['length']}"
            )
    shard_order = {shard["file"]: order for order, shard in enumerate(manifest.shards)}
    if len(shard_order) != len(manifest.shards):
        raise _bad(path, "shards", "names a file twice")
    last_row, last_shard = -1, 0
    for position, video in enumerate(manifest.videos):
        where = f"videos[{position}]"
        _check(video, _VIDEO_FIELDS, path, where)
        row, label, rate = video["video_index"], video["label"], video["frame_rate"]
        if not last_row < row < manifest.num_rows:
            raise _bad(path, where, f"has video_index {row}, not between {last_row} and num_rows")
        if min(video["num_frames"], video["height"], video["width"]) < 1:
            raise _bad(path, where, "has no frames or no size")
        # Readers make room for what a manifest claims.
        size = video["height"] * video["width"]
        if video["num_frames"] > _MAX_COUNT or size > pictures.MAX_SOURCE_PIXELS:
            raise _bad(path, where, "has an impossible number of frames or size")
        if not 0 <= rate <= _MAX_COUNT:
            raise _bad(path, where, f"has frame_rate {rate}")
        if label is not None and not 0 <= label < len(class_names):
            raise _bad(path, where, f"has label {label} of {len(class_names)} classes")
        if shard_order.get(video["shard"], -1) < last_shard:
            raise _bad(path, where, f"has shard {video['shard']!r}, unknown or out of order")
        last_row, last_shard = row, shard_order[video["shard"]]
    return manifest


def _check(entry: object, fields: dict, path: str, where: str) -> None:
    if not isinstance(entry, dict):
        raise _bad(path, where, "is not an object")
    for key, types in fields.items():
        value = entry.get(key)
        known = isinstance(value, types) and (isinstance(value, bool) == (types == (bool,)))
        if key not in entry or not known:
            raise _bad(path, where or "it", f"has no valid {key!r}")


def _bad(path: str, where: str, fault: str) -> errors.UserError:
    return errors.UserError(f"{path} is damaged: {where} {fault}; make the shards again")


def _is_plain_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0")
