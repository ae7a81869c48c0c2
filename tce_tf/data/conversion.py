"""How do clips become a shard folder: parallel, in any order, interrupted or not, always the same?

    conversion.make_tfrecords(plan.Options("videos", "shards/train"), num_workers=8)

Every shard is one call of `write_shard(plan, number, pool)`, which depends on nothing else and
publishes its files by renaming. Its note, written last, marks it as done and holds what the
manifest needs; the manifest is written when every shard has one.

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
from collections.abc import Callable

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import manifest as manifests
from tce_tf.data import plan as plans
from tce_tf.data import progress, run_state, shard_format, storage, video, workers
from tce_tf.data.pictures import VideoError

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
    with (
        run_state.scratch_folder(options.output) as scratch,
        workers.DecodePool(num_workers) as pool,
    ):
        plan = run_state.plan_or_resume(options, pool)
        notes = [run_state.read_note(plan, shard) for shard in range(plan.num_shards)]
        todo = [shard for shard, note in enumerate(notes) if note is None]
        if len(todo) < plan.num_shards:
            logging.info(
                "%d of %d shards are there already", plan.num_shards - len(todo), len(notes)
            )
        _write_shards(plan, todo, pool, scratch)
    return _finish(plan, max_rejected_fraction)


def _write_shards(
    plan: plans.Plan, todo: list[int], pool: workers.DecodePool, scratch: str
) -> None:
    bar = progress.Progress(sum(len(plan.shard_clips(shard)) for shard in todo), "clips")
    # One shard more than workers: while a shard waits for its last clip, others keep them busy.
    with concurrent.futures.ThreadPoolExecutor(pool.num_workers + 1) as threads:
        futures = [
            threads.submit(write_shard, plan, shard, pool, scratch=scratch, on_clip=bar.add)
            for shard in todo
        ]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            pool.stop()
            raise
    if todo:
        bar.close()


def write_shard(
    plan: plans.Plan,
    shard: int,
    pool: workers.DecodePool,
    *,
    scratch: str | None = None,
    on_clip: Callable[[int], None] = lambda frames: None,
) -> None:
    """Makes one shard, its index and its note. Independent of every other shard.

    Args:
      plan: of the whole folder.
      shard: 0 <= shard < plan.num_shards.
      pool: decodes the clips.
      scratch: local folder for unfinished files, on the output's disk; None = one of its own.
      on_clip: called after each clip with its number of frames, 0 for a rejected one.

    Raises:
      errors.UserError: the output cannot be written.
    """
    if scratch is None:
        with run_state.scratch_folder(plan.options.output) as own:
            return write_shard(plan, shard, pool, scratch=own, on_clip=on_clip)
    clips = plan.shard_clips(shard)
    parts = [os.path.join(scratch, f"{clip.video_index:09d}.record") for clip in clips]

    def submit(clip: plans.PlannedClip, part: str):
        encoding = plan.options.encoding
        return pool.submit(encode_record, clip, encoding, part, timeout_seconds=_time_limit(clip))

    with _submitting:  # a shard's clips stand together in the queue, so that shards end one by one
        futures = [submit(clip, part) for clip, part in zip(clips, parts, strict=True)]
    name = plan.shard_file(shard)
    temporary = os.path.join(scratch, name)
    entries, rejected, index = [], [], [np.zeros(0, shard_format.INDEX_DTYPE)]
    try:
        with open(temporary, "wb") as file:
            for clip, part, future in zip(clips, parts, futures, strict=True):
                try:
                    try:
                        entry, rows = pool.result(future)
                    except workers.WorkerDied:
                        # Once more: the system kills processes for its own reasons (memory).
                        entry, rows = pool.result(submit(clip, part))
                except VideoError as error:
                    rejected.append(_rejection(clip, str(error)))
                    on_clip(0)
                    continue
                rows["offset"] += np.uint64(file.tell())
                index.append(rows)
                entries.append(entry | {"shard": name})
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, file, 2**20)
                os.unlink(part)
                on_clip(entry["num_frames"])
            length = file.tell()
        with open(f"{temporary}.index", "wb") as file:
            np.save(file, np.concatenate(index), allow_pickle=False)
        output = plan.options.output
        index_path = storage.join(output, manifests.index_name(name))
        storage.publish(temporary, storage.join(output, name))
        storage.publish(f"{temporary}.index", index_path)
    except OSError as error:
        raise errors.UserError(
            f"cannot write {name} in {plan.options.output}: {error.strerror or error}"
        ) from error
    note = {"length": length, "videos": entries, "rejected": rejected}
    storage.write_atomic(run_state.note_path(plan, shard), run_state.to_json(note))


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
      errors.UserError: the file cannot be written.
    """
    try:
        encoded = video.encode_clip(clip.path, encoding, clip.start_us, clip.end_us)
    except OSError as error:  # gone, unreadable, a failing disk
        raise VideoError(error.strerror or str(error)) from error
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
    record = shard_format.serialize_example(context, encoded.jpegs, encoded.timestamps.tolist())
    rows = shard_format.index_rows(record, shard_format.HEADER_BYTES)
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


def _time_limit(clip: plans.PlannedClip) -> float:
    """Seconds a clip may take: generous, it only ends what hangs. Pieces may need a full read."""
    try:
        size = os.path.getsize(clip.path)
    except OSError:
        size = 0
    return 300 + size / 100_000


def _rejection(clip: plans.PlannedClip, reason: str) -> dict:
    reason = " ".join(reason.split())
    return {
        "name": clip.name,
        "path": clip.path,
        "reason": reason,
        "stamp": run_state.stamp(clip.path),
    }


def _finish(plan: plans.Plan, max_rejected_fraction: float) -> manifests.Manifest:
    """Writes `rejected.csv` and the manifest from the notes."""
    notes = []
    for shard in range(plan.num_shards):
        notes.append(json.loads(storage.read_bytes(run_state.note_path(plan, shard))))
    rejected = [(entry["path"], entry["reason"]) for note in notes for entry in note["rejected"]]
    rejected = [*plan.rejected, *rejected]
    manifest = manifests.Manifest(
        arguments=plan.options.arguments() | {"layout": plan.layout},
        class_names=plan.class_names,
        num_rows=len(plan.clips),
        num_rejected=len(rejected),
        shards=[
            {"file": plan.shard_file(shard), "length": note["length"]}
            for shard, note in enumerate(notes)
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
