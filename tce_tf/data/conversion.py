"""How do clips become a shard folder: parallel, in any order, interrupted or not, always the same?

    conversion.make_tfrecords(plan.Options("videos", "shards/train"), num_workers=8)

Every shard is one call of `write_shard(shard, pool)`, which depends on nothing else and publishes
its files by renaming (`beam_runner.py` makes the same calls on a cluster). Its note, written last,
marks it as done and holds what the manifest needs; the manifest is written when every shard has one.

    <output>/train-00000-of-00002.tfrecord, train-00000-of-00002.index.npy, ...
    <output>/manifest.json, rejected.csv
    <output>/.make_tfrecords/plan.json, 00000.json (notes), partial/ (gone at the end)
"""

import concurrent.futures
import csv
import hashlib
import io
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import manifest as manifests
from tce_tf.data import plan as plans
from tce_tf.data import progress, run_state, shard_format, storage, video, workers
from tce_tf.data.pictures import ReadError, VideoError

REJECTED_NAME = "rejected.csv"

_submitting = threading.Lock()


def make_tfrecords(
    options: plans.Options, *, num_workers: int = 0, max_rejected_fraction: float = 0.1
) -> manifests.Manifest:
    """Makes a shard folder, or finishes one.

    Args:
      options: what to make; the same options on the same input give the same bytes.
      num_workers: decoding processes, 0 = one a core.
      max_rejected_fraction: of the clips; beyond it the shards are kept and this raises.

    Returns:
      The folder's manifest.

    Raises:
      errors.UserError: bad input or flags, a folder made with other flags or in use, a full disk,
        too many rejected clips.
    """
    storage.make_folder(options.output)
    with run_state.lock(options.output), workers.DecodePool(num_workers) as pool:
        plan = run_state.plan_or_resume(options, pool)
        write_shards(run_state.unfinished(plan), pool)
    return finish(plan, max_rejected_fraction)


def write_shards(shards: list[plans.Shard], pool: workers.DecodePool) -> None:
    """Makes shards on this machine, a few at a time.

    Raises:
      errors.UserError: the output cannot be written.
    """
    bar = progress.Progress(sum(len(shard.clips) for shard in shards), "clips")
    # One shard more than workers: while a shard waits for its last clip, others keep them busy.
    with concurrent.futures.ThreadPoolExecutor(pool.num_workers + 1) as threads:
        futures = [threads.submit(write_shard, shard, pool, on_clip=bar.add) for shard in shards]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            pool.stop()
            raise
    if shards:
        bar.close()


def write_shard(
    shard: plans.Shard,
    pool: workers.DecodePool,
    *,
    on_clip: Callable[[int], None] = lambda frames: None,
) -> None:
    """Makes one shard, its index and its note. Independent of every other shard.

    Args:
      shard: what to make.
      pool: decodes the clips.
      on_clip: called after each clip with its number of frames, 0 for a rejected one.

    Raises:
      errors.UserError: the output cannot be written.
    """
    with run_state.scratch_folder(shard.output) as scratch:
        # Before anything is read: what changes meanwhile is noticed by the next run.
        sources = [run_state.stamp(clip.path) for clip in shard.clips]
        parts = [os.path.join(scratch, f"{clip.video_index:09d}.record") for clip in shard.clips]

        def submit(clip: plans.PlannedClip, part: str):
            limit = _time_limit(clip)
            return pool.submit(encode_record, clip, shard.encoding, part, timeout_seconds=limit)

        with _submitting:  # a shard's clips stand together in the queue: shards end one by one
            futures = [submit(clip, part) for clip, part in zip(shard.clips, parts, strict=True)]
        temporary = os.path.join(scratch, shard.file)
        entries, rejected, index = [], [], [np.zeros(0, shard_format.INDEX_DTYPE)]
        try:
            with open(temporary, "wb") as file:
                tasks = zip(shard.clips, parts, futures, strict=True)
                for number, (clip, part, future) in enumerate(tasks):
                    try:
                        try:
                            entry, rows = pool.result(future)
                        except workers.WorkerDied:
                            # Once more: the system kills processes for its own reasons (memory).
                            entry, rows = pool.result(submit(clip, part))
                    except VideoError as error:
                        if isinstance(error, ReadError):
                            sources[number] = []  # other than what the next run will see
                        rejected.append({"path": clip.path, "reason": " ".join(str(error).split())})
                        on_clip(0)
                        continue
                    rows["offset"] += np.uint64(file.tell())
                    index.append(rows)
                    entries.append(entry | {"shard": shard.file})
                    with open(part, "rb") as source:
                        shutil.copyfileobj(source, file, 2**20)
                    os.unlink(part)
                    on_clip(entry["num_frames"])
                length = file.tell()
            with open(f"{temporary}.index", "wb") as file:
                np.save(file, np.concatenate(index), allow_pickle=False)
            index_name = manifests.index_name(shard.file)
            checksums = {
                shard.file: run_state.checksum(temporary),
                index_name: run_state.checksum(f"{temporary}.index"),
            }
            index_path = storage.join(shard.output, index_name)
            storage.publish(temporary, storage.join(shard.output, shard.file))
            storage.publish(f"{temporary}.index", index_path)
        except OSError as error:
            raise errors.UserError(
                f"cannot write {shard.file} in {shard.output}: {error.strerror or error}"
            ) from error
    note = {
        "length": length,
        "checksums": checksums,
        "sources": sources,
        "videos": entries,
        "rejected": rejected,
    }
    storage.write_atomic(run_state.note_path(shard), run_state.to_json(note))


def encode_record(
    clip: plans.PlannedClip, encoding: video.EncodeOptions, path: str
) -> tuple[dict, np.ndarray]:
    """Decodes one clip and writes its framed record. Runs in a worker process.

    Args:
      clip: what to decode.
      encoding: how frames are stored.
      path: of the record's file, with TFRecord header and footer.

    Returns:
      The manifest's entry without `shard`, and INDEX_DTYPE [T] with offsets in that file.

    Raises:
      VideoError: the clip is rejected; the message is the reason.
      ReadError: the same, but the next run should try again.
      errors.UserError: the file cannot be written.
    """
    try:
        encoded = video.encode_clip(clip.path, encoding, clip.start_us, clip.end_us)
    except (VideoError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise (ReadError if _is_of_the_system(error) else VideoError)(reason) from error
    context = {
        shard_format.MEDIA_ID: clip.name,
        shard_format.VIDEO_FILENAME: clip.filename,
        shard_format.VIDEO_INDEX: clip.video_index,
        shard_format.IMAGE_HEIGHT: encoded.height,
        shard_format.IMAGE_WIDTH: encoded.width,
        shard_format.FRAME_RATE: float(encoded.frame_rate),
        shard_format.CLIP_START: int(encoded.timestamps[0]),
        shard_format.CLIP_END: int(encoded.timestamps[-1]),
    }
    if clip.label is not None:
        context[shard_format.LABEL_INDEX] = clip.label
        context[shard_format.LABEL_TEXT] = clip.label_text
    record, offsets = shard_format.serialize_example(
        context, encoded.jpegs, encoded.timestamps.tolist()
    )
    rows = np.zeros(len(offsets), shard_format.INDEX_DTYPE)
    rows["offset"] = offsets + shard_format.HEADER_BYTES
    rows["length"] = [len(jpeg) for jpeg in encoded.jpegs]
    rows["crc"] = [zlib.crc32(jpeg) for jpeg in encoded.jpegs]
    rows["timestamp"] = encoded.timestamps
    checksum = hashlib.sha256()
    for jpeg in encoded.jpegs:
        checksum.update(jpeg)
    try:
        with open(path, "wb") as file:
            file.write(shard_format.record_header(len(record)))
            file.write(record)
            file.write(shard_format.record_footer(record))
    except OSError as error:
        raise errors.UserError(f"cannot write {path}: {error.strerror}") from error
    entry = {
        "name": clip.name,
        "video_index": clip.video_index,
        "num_frames": len(encoded.jpegs),
        "height": encoded.height,
        "width": encoded.width,
        "frame_rate": round(float(encoded.frame_rate), 6),
        "label": clip.label,
        "group": clip.group,
        "checksum": checksum.hexdigest(),
        "truncated": encoded.truncated,
    }
    return entry, rows


def _is_of_the_system(error: BaseException | None) -> bool:
    """Whether a file is gone or a disk fails, where another error is about what the file holds."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return True
        error = error.__cause__
    return False


def _time_limit(clip: plans.PlannedClip) -> float:
    """Seconds a clip may take: generous, it only ends what hangs. Pieces may need a full read."""
    try:
        size = os.path.getsize(clip.path)
    except OSError:
        size = 0
    return 300 + size / 100_000


def finish(plan: plans.Plan, max_rejected_fraction: float) -> manifests.Manifest:
    """Writes `rejected.csv` and the manifest from the notes of all shards.

    Raises:
      errors.UserError: nothing to make, or more rejected clips than allowed; the rest is kept.
    """
    shards = plan.shards()
    notes = [json.loads(storage.read_bytes(run_state.note_path(shard))) for shard in shards]
    rejected = [(entry["path"], entry["reason"]) for note in notes for entry in note["rejected"]]
    rejected = [*plan.rejected, *rejected]
    manifest = manifests.Manifest(
        arguments=plan.options.arguments() | {"layout": plan.layout},
        class_names=plan.class_names,
        num_rows=len(plan.clips),
        num_rejected=len(rejected),
        shards=[
            {"file": shard.file, "length": note["length"]}
            for shard, note in zip(shards, notes, strict=True)
        ],
        videos=[entry for note in notes for entry in note["videos"]],
    )
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("path", "reason"), *rejected])
    rejected_path = storage.join(plan.options.output, REJECTED_NAME)
    storage.write_atomic(rejected_path, text.getvalue().encode("utf-8", "backslashreplace"))
    manifests.write(plan.options.output, manifest)
    total = len(plan.clips) + len(plan.rejected)
    logging.info(
        "%s: %d videos, %d frames, %d truncated, %d of %d rejected",
        plan.options.output, len(manifest.videos), manifest.num_frames,
        sum(entry["truncated"] for entry in manifest.videos), len(rejected), total,
    )  # fmt: skip
    if not total:
        raise errors.UserError(
            f"--subset={plan.options.subset} of split {plan.options.split} names no clip that is in "
            f"--input={plan.options.input}: there is nothing to make"
        )
    if not manifest.videos or len(rejected) > max_rejected_fraction * total:
        path, reason = rejected[0]
        raise errors.UserError(
            f"{len(rejected)} of {total} clips were rejected, more than --max_rejected_fraction="
            f"{max_rejected_fraction:g}; the others are kept; see {rejected_path} (first: "
            f"{path.encode('utf-8', 'backslashreplace').decode()}: {reason})"
        )
    return manifest
