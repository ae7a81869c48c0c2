"""Shard folders: the same whatever happens on the way, and nothing lost in silence."""

import concurrent.futures
import csv
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tiny_videos

from tce_tf import errors
from tce_tf.data import conversion, pictures, plan, run_state, shard_format, video, workers
from tce_tf.data import manifest as manifests
from tce_tf.data.pictures import VideoError
from tce_tf.data.plan import Options
from tce_tf.data.shard_reader import ShardReader


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six clips of two classes: videos and one frame folder."""
    root = tmp_path_factory.mktemp("clips")
    for name in ("Run/v_Run_g01_c01.mp4", "Run/v_Run_g02_c01.avi", "Walk/v_Walk_g01_c01.mkv"):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        tiny_videos.write_video(root / name, codec=codec)
    for number in (2, 3):
        tiny_videos.write_video(root / f"Walk/v_Walk_g0{number}_c01.mp4", frames=5 + number)
    tiny_videos.write_frames(root / "Run/v_Run_g03_c01")
    return str(root)


def _options(clips, output, **changes):
    return Options(
        input=clips, output=str(output), **({"short_side": 24, "num_shards": 3} | changes)
    )


def _files(folder):
    return {
        name: (folder / name).read_bytes()
        for name in os.listdir(folder)
        if (folder / name).is_file()
    }


def test_records_hold_what_the_manifest_says(clips, tmp_path):
    manifest = conversion.make_tfrecords(_options(clips, tmp_path), num_workers=1)
    assert manifest == manifests.read(str(tmp_path))
    assert manifest.class_names == ["Run", "Walk"]
    assert [video["name"] for video in manifest.videos] == [
        "Run/v_Run_g01_c01", "Run/v_Run_g02_c01", "Run/v_Run_g03_c01",
        "Walk/v_Walk_g01_c01", "Walk/v_Walk_g02_c01", "Walk/v_Walk_g03_c01",
    ]  # fmt: skip
    assert [video["label"] for video in manifest.videos] == [0, 0, 0, 1, 1, 1]
    assert [video["group"] for video in manifest.videos][:2] == ["Run_g01", "Run_g02"]
    assert [video["num_frames"] for video in manifest.videos] == [12, 12, 12, 12, 7, 8]
    assert not (tmp_path / run_state.WORK_FOLDER / "partial").exists()
    reader = ShardReader([str(tmp_path)])
    position = 0
    for shard in manifest.shards:
        for record in tf.data.TFRecordDataset(str(tmp_path / shard["file"])):
            video = manifest.videos[position]
            example = tf.train.SequenceExample.FromString(record.numpy())
            context = example.context.feature
            assert context[shard_format.MEDIA_ID].bytes_list.value == [video["name"].encode()]
            assert context[shard_format.VIDEO_INDEX].int64_list.value == [position]
            assert context[shard_format.LABEL_INDEX].int64_list.value == [video["label"]]
            assert context[shard_format.IMAGE_HEIGHT].int64_list.value == [24]
            filename = context[shard_format.VIDEO_FILENAME].bytes_list.value[0].decode()
            assert os.path.exists(os.path.join(clips, filename))
            lists = example.feature_lists.feature_list
            jpegs = [f.bytes_list.value[0] for f in lists[shard_format.IMAGE_ENCODED].feature]
            times = [f.int64_list.value[0] for f in lists[shard_format.IMAGE_TIMESTAMP].feature]
            count = video["num_frames"]
            assert reader.read_frames([position] * count, range(count)) == jpegs
            assert reader.timestamps(position).tolist() == times
            for number, jpeg in enumerate(jpegs):
                np.testing.assert_allclose(
                    tiny_videos.quarters(tf.io.decode_jpeg(jpeg).numpy()),
                    tiny_videos.quarters(tiny_videos.picture(number)),
                    atol=12,
                )
            position += 1
    assert position == 6


def test_same_bytes_for_any_number_of_workers_and_after_an_interruption(clips, tmp_path):
    conversion.make_tfrecords(_options(clips, tmp_path / "a"), num_workers=1)
    conversion.make_tfrecords(_options(clips, tmp_path / "b"), num_workers=3)
    expected = _files(tmp_path / "a")
    assert _files(tmp_path / "b") == expected and len(expected) == 8
    # As after a kill: one shard missing, one cut short, the manifest not written.
    names = sorted(name for name in expected if name.endswith(".tfrecord"))
    os.unlink(tmp_path / "b" / names[0])
    os.truncate(tmp_path / "b" / names[1], 100)
    os.unlink(tmp_path / "b" / "manifest.json")
    untouched = os.stat(tmp_path / "b" / names[2])
    conversion.make_tfrecords(_options(clips, tmp_path / "b"), num_workers=2)
    assert _files(tmp_path / "b") == expected
    assert os.stat(tmp_path / "b" / names[2]).st_ino == untouched.st_ino


@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_run_is_finished_by_the_next(clips, tmp_path, signal_sent):
    conversion.make_tfrecords(_options(clips, tmp_path / "a", num_shards=6), num_workers=1)
    code = (
        "from tce_tf.data import conversion, plan; conversion.make_tfrecords("
        f"plan.Options({clips!r}, {str(tmp_path / 'b')!r}, short_side=24, num_shards=6),"
        "num_workers=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # as on a terminal, Ctrl-C reaches the workers too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    notes = tmp_path / "b" / run_state.WORK_FOLDER
    deadline = time.monotonic() + 30
    while not (notes / "00001.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal_sent)
    process.wait(timeout=20)
    assert not (tmp_path / "b" / "manifest.json").exists()
    conversion.make_tfrecords(_options(clips, tmp_path / "b", num_shards=6), num_workers=1)
    assert _files(tmp_path / "b") == _files(tmp_path / "a")


def test_other_flags_or_clips_are_refused(clips, tmp_path):
    (tmp_path / "in").symlink_to(clips)
    conversion.make_tfrecords(_options(clips, tmp_path / "out"), num_workers=1)
    with pytest.raises(errors.UserError, match=r"--jpeg_quality=90, now it is 80"):
        conversion.make_tfrecords(_options(clips, tmp_path / "out", jpeg_quality=80))
    tiny_videos.write_video(tmp_path / "other/Walk/v_Walk_g09_c01.mp4")
    with pytest.raises(errors.UserError, match="6 clips, now there are 1"):
        conversion.make_tfrecords(_options(str(tmp_path / "other"), tmp_path / "out"))
    # The input may move: its clips are the same.
    conversion.make_tfrecords(_options(str(tmp_path / "in"), tmp_path / "out"), num_workers=1)


def test_rejected_clips_keep_their_row_and_can_be_repaired(tmp_path):
    for name in "abcd":
        tiny_videos.write_video(tmp_path / "in" / f"{name}.mp4")
    good = (tmp_path / "in" / "b.mp4").read_bytes()
    (tmp_path / "in" / "b.mp4").write_bytes(b"no video, just text")
    options = _options(str(tmp_path / "in"), tmp_path / "out", num_shards=2)
    with pytest.raises(errors.UserError, match=r"1 of 4 clips were rejected.*b\.mp4: no readable"):
        conversion.make_tfrecords(options, num_workers=1)
    manifest = conversion.make_tfrecords(options, num_workers=1, max_rejected_fraction=0.25)
    assert [video["video_index"] for video in manifest.videos] == [0, 2, 3]
    assert (manifest.num_rows, manifest.num_rejected) == (4, 1)
    with open(tmp_path / "out" / "rejected.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [os.path.basename(row["path"]) for row in rows] == ["b.mp4"]
    reader = ShardReader([str(tmp_path / "out")])
    assert reader.rows.tolist() == [0, 2, 3] and reader.num_rows == 4
    (tmp_path / "in" / "b.mp4").write_bytes(good)
    manifest = conversion.make_tfrecords(options, num_workers=1)
    assert [video["video_index"] for video in manifest.videos] == [0, 1, 2, 3]


def test_a_replaced_source_is_noticed_and_only_its_shard_made_again(tmp_path, caplog):
    for name in "abc":
        tiny_videos.write_video(tmp_path / "in" / f"{name}.mp4", frames=4)
    tiny_videos.write_frames(tmp_path / "in" / "d", frames=4)
    options = _options(str(tmp_path / "in"), tmp_path / "out", num_shards=4)
    before = conversion.make_tfrecords(options, num_workers=1)
    inodes = [os.stat(tmp_path / "out" / shard["file"]).st_ino for shard in before.shards]
    tiny_videos.write_video(tmp_path / "in" / "b.mp4", frames=6)
    # In place, so that the folder itself does not change.
    (tmp_path / "in" / "d" / "frame000002.jpg").write_bytes(
        (tmp_path / "in" / "d" / "frame000001.jpg").read_bytes()
    )
    with caplog.at_level("INFO", logger="absl"):
        after = conversion.make_tfrecords(options, num_workers=1)
    assert "1 of its sources changed" in caplog.text and "b.mp4" in caplog.text
    assert [video["num_frames"] for video in after.videos] == [4, 6, 4, 4]
    reader = ShardReader([str(tmp_path / "out")])
    first, second = reader.read_frames([3, 3], [0, 1])
    assert first == second
    same = [
        os.stat(tmp_path / "out" / shard["file"]).st_ino == inode
        for shard, inode in zip(after.shards, inodes, strict=True)
    ]
    assert same == [True, False, True, False]


def test_a_damaged_shard_or_index_is_found_and_made_again(tmp_path, caplog):
    """One bit of each, the length as it was; the others are left as they are."""
    for name in "abc":
        tiny_videos.write_video(tmp_path / "in" / f"{name}.mp4", frames=4)
    options = _options(str(tmp_path / "in"), tmp_path / "out", num_shards=3)
    conversion.make_tfrecords(options, num_workers=1)
    files = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    shards = sorted(path for path in files if path.suffix == ".tfrecord")
    (index,) = (path for path in files if path.suffix == ".npy" and shards[2].stem in path.name)
    for path in (shards[0], index):
        damaged = bytearray(files[path])
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
    untouched = os.stat(shards[1]).st_ino
    with caplog.at_level("WARNING", logger="absl"):
        conversion.make_tfrecords(options, num_workers=1)
    assert caplog.text.count("is damaged") == 2
    assert {path: path.read_bytes() for path in files} == files
    assert os.stat(shards[1]).st_ino == untouched


def test_a_subset_without_a_clip_is_named(tmp_path):
    tiny_videos.write_video(tmp_path / "in" / "A" / "v_A_g01_c01.mp4", frames=2)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "trainlist01.txt").write_text("A/v_A_g01_c01.avi 1\n")
    (tmp_path / "s" / "testlist01.txt").write_text("")
    options = _options(
        str(tmp_path / "in"), tmp_path / "out", split_dir=str(tmp_path / "s"), subset="test"
    )
    with pytest.raises(errors.UserError, match="--subset=test of split 1 names no clip"):
        conversion.make_tfrecords(options, num_workers=1)


def test_nothing_readable_at_all(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"")
    with pytest.raises(errors.UserError, match="the file is empty"):
        conversion.make_tfrecords(
            _options(str(tmp_path / "in"), tmp_path / "out"), num_workers=1, max_rejected_fraction=1
        )


def test_split_lists_decide_labels_and_missing_clips_are_listed(clips, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "classInd.txt").write_text("1 Walk\n2 Sit\n3 Run\n")
    train = ["Run/v_Run_g01_c01.avi 3", "Walk/v_Walk_g01_c01.avi 1", "Sit/v_Sit_g01_c01.avi 2"]
    (tmp_path / "s" / "trainlist01.txt").write_text("\n".join(train))
    (tmp_path / "s" / "testlist01.txt").write_text("Run/v_Run_g03_c01.avi\n")
    options = _options(clips, tmp_path / "out", split_dir=str(tmp_path / "s"), subset="train")
    manifest = conversion.make_tfrecords(options, num_workers=1, max_rejected_fraction=0.5)
    assert manifest.class_names == ["Walk", "Sit", "Run"]
    assert [video["label"] for video in manifest.videos] == [2, 0]
    assert manifest.shards[0]["file"].startswith("train-")
    text = (tmp_path / "out" / "rejected.csv").read_text()
    assert "Sit/v_Sit_g01_c01,listed in trainlist01.txt but not found" in text


def test_long_footage_is_cut_into_rows_of_one_group(tmp_path):
    tiny_videos.write_video(tmp_path / "in" / "a.mp4", frames=24)  # 2.4 s
    options = _options(str(tmp_path / "in"), tmp_path / "out", clip_seconds=1.0, short_side=0)
    manifest = conversion.make_tfrecords(options, num_workers=1)
    assert [video["name"] for video in manifest.videos] == ["a#0000", "a#0001"]
    assert [video["num_frames"] for video in manifest.videos] == [10, 14]  # the rest joins
    assert {video["group"] for video in manifest.videos} == {"a"}
    reader = ShardReader([str(tmp_path / "out")])
    assert reader.timestamps(1)[:2].tolist() == [1_000_000, 1_100_000]


def test_kinetics_folders_are_the_split(tmp_path):
    tiny_videos.write_video(tmp_path / "in/train/a/x.mp4", frames=2)
    tiny_videos.write_video(tmp_path / "in/val/a/y.mp4", frames=2)
    options = _options(str(tmp_path / "in"), tmp_path / "out", subset="test")
    manifest = conversion.make_tfrecords(options, num_workers=1)
    assert [video["name"] for video in manifest.videos] == ["val/a/y"]
    with pytest.raises(errors.UserError, match="--subset=train needs"):
        conversion.make_tfrecords(
            _options(str(tmp_path / "in"), tmp_path / "o2", subset="train", layout="flat")
        )


def test_second_run_into_one_folder_is_refused(clips, tmp_path):
    with run_state.lock(str(tmp_path)):
        with pytest.raises(errors.UserError, match="another make_tfrecords is writing"):
            conversion.make_tfrecords(_options(clips, tmp_path))


def test_finished_shards_of_elsewhere_are_not_overwritten(clips, tmp_path):
    manifests.write(str(tmp_path), manifests.Manifest({}, [], 0, 0, [], []))
    with pytest.raises(errors.UserError, match="holds finished shards already"):
        conversion.make_tfrecords(_options(clips, tmp_path))


def test_crash_and_hang_cost_their_clips_only(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "encode_record", tiny_videos.encode_with_faults)
    monkeypatch.setattr(conversion, "_time_limit", lambda clip: 3.0)
    manifest = conversion.make_tfrecords(
        _options(clips, tmp_path), num_workers=2, max_rejected_fraction=0.6
    )
    assert [video["video_index"] for video in manifest.videos] == [0, 3, 4, 5]
    notes = [run_state.WORK_FOLDER + f"/0000{n}.json" for n in range(3)]
    rejected = [e for n in notes for e in json.loads((tmp_path / n).read_text())["rejected"]]
    reasons = {os.path.basename(entry["path"]): entry["reason"] for entry in rejected}
    assert "crashed" in reasons["v_Run_g02_c01.avi"]
    assert "more than 3 s" in reasons["v_Run_g03_c01"]


def test_full_disk_is_one_clear_error(clips, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion.storage, "publish", full)
    with pytest.raises(errors.UserError, match=r"cannot write .*No space left"):
        conversion.make_tfrecords(_options(clips, tmp_path), num_workers=1)
    monkeypatch.undo()
    conversion.make_tfrecords(_options(clips, tmp_path), num_workers=1)


def test_unforeseen_error_is_a_named_rejection():
    with workers.DecodePool(1) as pool:
        future = pool.submit(int, "x", timeout_seconds=20)
        with pytest.raises(VideoError, match="internal error: ValueError"):
            pool.result(future)


def test_stopping_the_pool_is_no_fault_of_a_video():
    with workers.DecodePool(1) as pool:
        future = pool.submit(time.sleep, 60, timeout_seconds=90)
        threading.Timer(1.0, pool.stop).start()
        with pytest.raises(concurrent.futures.CancelledError):
            pool.result(future)


def test_shards_are_contiguous_blocks():
    clips = [plan.PlannedClip(n, str(n), "", "", None, None, None) for n in range(10)]
    whole = plan.Plan(Options("i", "o"), "flat", [], clips, [], 4)
    blocks = [[clip.video_index for clip in shard.clips] for shard in whole.shards()]
    assert blocks == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]


def test_write_shard_alone_equals_the_whole_run(clips, tmp_path):
    """What a cluster runner would call."""
    conversion.make_tfrecords(_options(clips, tmp_path / "a"), num_workers=1)
    with workers.DecodePool(1) as pool:
        shard = plan.make_plan(_options(clips, tmp_path / "b"), pool).shard(1)
        conversion.write_shard(shard, pool)
    name = shard.file
    assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (OSError(errno.EIO, "Input/output error"), pictures.ReadError),
        (OSError("image file is truncated"), VideoError),  # Pillow's
        (None, VideoError),
    ],
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_what_the_system_cannot_read_is_tried_again(cause, kind, is_wrapped, tmp_path, monkeypatch):
    """A disk that failed may have been mended; a file that holds no video stays as it is."""

    def encode_clip(*_):
        if cause is None or is_wrapped:
            raise VideoError("no readable video file") from cause
        raise cause

    monkeypatch.setattr(video, "encode_clip", encode_clip)
    clip = plan.PlannedClip(0, "a", "a.mp4", "a.mp4", None, None, None, 0, None)
    with pytest.raises(VideoError) as rejected:
        conversion.encode_record(clip, video.EncodeOptions(), str(tmp_path / "record"))
    assert type(rejected.value) is kind
