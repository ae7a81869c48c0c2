"""What did an earlier run leave in a shard folder, and may this run go on with it?

`<output>/.make_tfrecords/` holds the plan a folder was begun with, one note a finished shard, a
lock, and during a run the unfinished files.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import tempfile

from tce_tf import errors
from tce_tf.data import manifest as manifests
from tce_tf.data import plan as plans
from tce_tf.data import shard_format, storage, workers

WORK_FOLDER = ".make_tfrecords"


def stamp(path: str) -> list[int]:
    """Changes when a file is repaired; its shard is then made again."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def to_json(document: object) -> bytes:
    """A document's bytes; the same document gives the same bytes."""
    return json.dumps(document, ensure_ascii=False).encode()


def note_path(plan: plans.Plan, shard: int) -> str:
    """Where a finished shard's note lies: its length, its videos and its rejected clips."""
    return storage.join(plan.options.output, f"{WORK_FOLDER}/{shard:05d}.json")


def read_note(plan: plans.Plan, shard: int) -> dict | None:
    """A finished shard's note; None when the shard must be made (again)."""
    if storage.size(note_path(plan, shard)) is None:
        return None
    try:
        note = json.loads(storage.read_bytes(note_path(plan, shard)))
    except ValueError:
        return None
    name = plan.shard_file(shard)
    if storage.size(storage.join(plan.options.output, name)) != note["length"]:
        return None
    frames = sum(entry["num_frames"] for entry in note["videos"])
    index = storage.size(storage.join(plan.options.output, manifests.index_name(name)))
    if index is None or index < frames * shard_format.INDEX_DTYPE.itemsize:
        return None
    if any(stamp(entry["path"]) != entry["stamp"] for entry in note["rejected"]):
        return None
    return note


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
def scratch_folder(output: str):
    """A folder for unfinished files; on a local disk also the lock against a second run."""
    if storage.is_remote(output):
        with tempfile.TemporaryDirectory(prefix="make_tfrecords-") as folder:
            yield folder
        return
    work = os.path.join(output, WORK_FOLDER)
    folder = os.path.join(work, "partial")
    storage.make_folder(work)
    try:
        lock = open(os.path.join(work, "lock"), "w")  # noqa: SIM115 -- held until the end
    except OSError as error:
        raise errors.UserError(f"cannot write to {output}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.UserError(
                f"another make_tfrecords is writing to {output}; wait for it or choose another "
                "--output"
            ) from None
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        storage.make_folder(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
