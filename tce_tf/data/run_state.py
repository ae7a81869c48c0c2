"""What did an earlier run leave in a shard folder, and may this run go on with it?

`<output>/.make_tfrecords/` holds the plan a folder was begun with, one note a finished shard, a
lock, and during a run the unfinished files.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile

import google_crc32c
from absl import logging

from tce_tf import errors
from tce_tf.data import locks, progress, remote, shard_format, storage, workers
from tce_tf.data import manifest as manifests
from tce_tf.data import plan as plans

WORK_FOLDER = ".make_tfrecords"
_PARTIAL = "partial"
_BLOCK = 2**20


def stamp(path: str) -> list[int]:
    """What changes when a clip's source is replaced or repaired: its shard is then made again.

    Size and time of change in nanoseconds, of a frame folder the sum and the latest; [] where there
    is nothing.
    """
    try:
        if not os.path.isdir(path):
            status = os.stat(path)
            return [status.st_size, status.st_mtime_ns]
        with os.scandir(path) as entries:
            statuses = [os.stat(path), *(entry.stat() for entry in entries)]
    except OSError:
        return []
    return [
        sum(status.st_size for status in statuses[1:]),
        max(status.st_mtime_ns for status in statuses),
    ]


def to_json(document: object) -> bytes:
    """A document's bytes; the same document gives the same bytes."""
    return json.dumps(document, ensure_ascii=False).encode()


def note_path(shard: plans.Shard) -> str:
    """Where a finished shard's note lies: its length, its videos and its rejected clips."""
    return storage.join(shard.output, f"{WORK_FOLDER}/{shard.number:05d}.json")


def checksum(path: str) -> int:
    """CRC-32C of a local file's bytes; OSError where it cannot be read."""
    found = google_crc32c.Checksum()
    with open(path, "rb") as file:
        for _ in found.consume(file, _BLOCK):
            pass
    return int.from_bytes(found.digest(), "big")


def is_damaged(shard: plans.Shard, note: dict) -> bool:
    """Whether a finished shard or its index differs from what was written: it is read back.

    What lies in a store is not: it keeps checksums of its own, and reading costs a download.
    """
    if remote.is_remote(shard.output):
        return False
    for name, expected in note["checksums"].items():
        try:
            if checksum(storage.join(shard.output, name)) == expected:
                continue
        except OSError as error:
            logging.warning("%s cannot be read: %s", name, error.strerror or error)
        logging.warning("%s is made again: %s is damaged", shard.file, name)
        return True
    return False


def read_note(shard: plans.Shard) -> dict | None:
    """A finished shard's note; None when the shard must be made (again), damage apart."""
    if storage.size(note_path(shard)) is None:
        return None
    try:
        note = json.loads(storage.read_bytes(note_path(shard)))
        sources, _ = note["sources"], dict(note["checksums"])
    except (ValueError, KeyError, TypeError):
        return None
    if storage.size(storage.join(shard.output, shard.file)) != note["length"]:
        return None
    frames = sum(entry["num_frames"] for entry in note["videos"])
    index = storage.size(storage.join(shard.output, manifests.index_name(shard.file)))
    if index is None or index < frames * shard_format.INDEX_DTYPE.itemsize:
        return None
    changed = [
        clip.path
        for clip, then in zip(shard.clips, sources, strict=True)
        if stamp(clip.path) != then
    ]
    if changed:
        logging.info(
            "%s is made again: %d of its sources changed, the first is %s",
            shard.file, len(changed), changed[0],
        )  # fmt: skip
        return None
    return note


def unfinished(plan: plans.Plan) -> list[plans.Shard]:
    """The shards that no earlier run finished, that are damaged, or whose sources changed since."""
    notes = {shard.number: read_note(shard) for shard in plan.shards()}
    there = [shard for shard in plan.shards() if notes[shard.number] is not None]
    if there:
        bar = progress.Progress(len(there), "shards checked")
        for shard in there:
            note = notes[shard.number]
            if is_damaged(shard, note):
                notes[shard.number] = None
            bar.add(sum(entry["num_frames"] for entry in note["videos"]))
        bar.close()
    todo = [shard for shard in plan.shards() if notes[shard.number] is None]
    if len(todo) < plan.num_shards:
        logging.info(
            "%d of %d shards are there already", plan.num_shards - len(todo), plan.num_shards
        )
    return todo


def plan_or_resume(options: plans.Options, pool: workers.DecodePool) -> plans.Plan:
    """The plan, checked against what an earlier run into the same folder was making.

    Raises:
      errors.UserError: that was something else, which the message names.
    """
    path = storage.join(options.output, f"{WORK_FOLDER}/plan.json")
    if storage.size(path) is None:
        if storage.size(storage.join(options.output, manifests.FILE_NAME)) is not None:
            raise errors.UserError(
                f"{options.output} holds finished shards already; choose another --output"
            )
        earlier = None
    else:
        try:
            earlier = json.loads(storage.read_bytes(path))
            names = [clip["name"] for clip in earlier["clips"]]
        except (ValueError, KeyError, TypeError) as error:
            raise errors.UserError(f"{path} is damaged; choose another --output") from error
        for key, now in options.arguments().items():
            # The input may have moved; that its clips are the same is checked below.
            then = earlier["arguments"].get(key)
            if key not in ("input", "split_dir") and then != now:
                raise errors.UserError(
                    f"{options.output} was begun with --{key}={then}, now it is {now}; "
                    "use the same flags or another --output"
                )
    plan = plans.make_plan(options, pool, earlier and earlier["num_shards"])
    clips = [_identity(clip) for clip in plan.clips]
    if earlier is None:
        document = {
            "arguments": options.arguments(),
            "num_shards": plan.num_shards,
            "clips": clips,
        }
        storage.make_folder(storage.join(options.output, WORK_FOLDER))
        storage.write_atomic(path, to_json(document))
    elif clips != earlier["clips"]:
        changed = [c["name"] for c, e in zip(clips, earlier["clips"], strict=False) if c != e]
        first = (changed or (names + [c["name"] for c in clips])[min(len(names), len(clips)) :])[0]
        raise errors.UserError(
            f"{options.output} was begun with {len(names)} clips, now there are {len(clips)}; the "
            f"first that differs is {first}; use another --output"
        )
    return plan


def _identity(clip: plans.PlannedClip) -> dict:
    kept = dataclasses.asdict(clip)
    del kept["path"]
    return kept


@contextlib.contextmanager
def lock(output: str):
    """Keeps a second run out of a local shard folder, and clears what a killed run left there.

    Two runs at once into an object store, which has no locks, would write the same bytes twice.
    """
    if remote.is_remote(output):
        yield
        return
    work = os.path.join(output, WORK_FOLDER)
    lock_file = os.path.join(work, "lock")
    with locks.exclusive(lock_file, command="make_tfrecords", output=output, flag="output"):
        partial = os.path.join(work, _PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(output: str):
    """A new folder for unfinished files, on the output's own disk where that is local.

    Of one shard: two machines that make the same one (a cluster may start it twice) do not meet.
    """
    parent = None
    if not remote.is_remote(output):
        parent = os.path.join(output, WORK_FOLDER, _PARTIAL)
        storage.make_folder(parent)
    try:
        folder = tempfile.mkdtemp(prefix="make_tfrecords-", dir=parent)
    except OSError as error:
        raise errors.UserError(f"cannot write to {parent}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
