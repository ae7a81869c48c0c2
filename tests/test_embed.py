"""Does a user's embedding work from the command line? Kill and resume, bad videos, queries, pictures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tce_tf import command, embed, errors
from tce_tf.data import conversion, plan, synthetic, video
from tce_tf.evaluation import collection, search
from tce_tf.visualization import neighbours_picture

ENCODER = ["--encoder=none", "--image_size=32"]


def run(*flags):
    embed.main(command.parse(embed.define_flags, [*ENCODER, *flags]))


@pytest.fixture(name="clips", scope="module")
def _clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "all"
    synthetic.make_clips(str(folder), num_videos=8, num_frames=20)
    return folder


@pytest.fixture(name="whole", scope="module")
def _whole(clips, tmp_path_factory):
    """The path of a collection in shards of about 30 rows."""
    path = tmp_path_factory.mktemp("whole") / "all.tfrecord"
    run(f"--input={clips}", f"--output={path}", "--rows_per_shard=30", "--batch_size=8")
    return path


def test_a_killed_run_ends_as_one_never_stopped(clips, whole, tmp_path):
    flags = [f"--input={clips}", f"--output={tmp_path}/all.tfrecord", "--rows_per_shard=30",
             "--batch_size=8"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tce_tf.embed", *ENCODER, *flags], stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "all-00000.tfrecord").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    manifest = json.loads((tmp_path / "all.json").read_text())
    assert not manifest["complete"] and len(manifest["shards"]) < 5
    run(*flags)
    names = sorted(name for name in os.listdir(whole.parent) if not name.startswith("."))
    assert names == sorted(name for name in os.listdir(tmp_path) if not name.startswith("."))
    assert names == [*(f"all-0000{i}.tfrecord" for i in range(5)), "all.json"]
    assert json.loads((tmp_path / "all.json").read_text()) == json.loads(
        whole.with_name("all.json").read_text()
    )
    expected = collection.load(str(whole))
    found = collection.load(str(tmp_path / "all.tfrecord"))
    assert expected["features"].shape == (160, 512) and expected["embeddings"].shape == (160, 128)
    for name in ("names", "timestamps"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("features", "embeddings"):  # the killed part had other threads
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_bad_videos_are_counted_listed_and_bounded(clips, tmp_path, capsys):
    folder = tmp_path / "some"
    folder.mkdir()
    for number, path in enumerate(sorted(clips.glob("*/*.mp4"))[:3]):
        shutil.copy(path, folder / f"{number}.mp4")
    (folder / "broken.mp4").write_text("no video")
    Image.new("RGB", (40, 30), "red").save(folder / "0.jpg")  # beside videos: no clip
    flags = [f"--input={folder}", f"--output={tmp_path}/some.npz", "--pool=video"]
    with pytest.raises(errors.UserError, match="1 of 4 videos cannot be read, more than --max_rej"):
        run(*flags)
    run(*flags, "--max_rejected_fraction=0.25")
    assert "3 rows" in capsys.readouterr().out
    with np.load(tmp_path / "some.npz") as file:
        assert file["names"].tolist() == ["0", "1", "2"]
        manifest = json.loads(str(file["manifest"]))
    (rejected,) = manifest["rejected"]
    assert rejected["path"] == "broken.mp4" and "no readable video" in rejected["reason"]
    assert manifest["root"] == str(folder)
    assert [video["source"] for video in manifest["videos"]] == ["0.mp4", "1.mp4", "2.mp4"]


def table(text):
    lines = text.splitlines()
    assert lines[0].split() == ["rank", "cosine", "name", "time"]
    return [line.split() for line in lines[1:] if not line.endswith("drawn")]


def test_a_query_finds_itself_and_draws_its_neighbours(clips, whole, tmp_path, capsys):
    path = sorted(clips.glob("*/*.mp4"))[5]
    name = os.path.relpath(path, clips).removesuffix(".mp4")
    flags = [f"--collection={whole}", "--top_k=5", f"--output={tmp_path}/out/near.png"]
    run(f"--query={path}", *flags)
    rows = table(capsys.readouterr().out)
    assert [row[0] for row in rows] == list("12345")
    assert rows[0][2] == name and float(rows[0][1]) > 0.9
    assert len({row[2] for row in rows}) == 5
    with Image.open(tmp_path / "out" / "near.png") as picture:
        colours = len(picture.convert("RGB").resize((200, 100)).getcolors(20_000))
    assert colours > 500  # thumbnails, not grey fields

    # A frame of the video as a picture finds that frame, exactly; its neighbours come next.
    frames = list(video.iterate_frames(str(path)))
    timestamp, frame = frames[13]
    Image.fromarray(frame).save(tmp_path / "frame.png")
    run(f"--query={tmp_path}/frame.png", *flags[:2], "--per_video=0")
    rows = table(capsys.readouterr().out)
    assert rows[0][1:] == ["1.0000", name, search.clock(timestamp)]
    assert [row[2] for row in rows[:3]] == [name] * 3

    opened = collection.open_collection(str(whole))
    items = [search.Item(1.0, name, timestamp), search.Item(0.9, name, 0)]
    images, missing = neighbours_picture.thumbnails(opened, items)
    assert missing == ""
    np.testing.assert_array_equal(images[0], frame)
    np.testing.assert_array_equal(images[1], frames[0][1])


def test_footage_that_moved_is_found_again_or_missed_in_one_line(clips, tmp_path, caplog):
    moved = tmp_path / "moved"
    shutil.copytree(clips, moved)
    run(f"--input={moved}", f"--output={tmp_path}/all.npz", "--pool=video")
    again = tmp_path / "again"
    moved.rename(again)
    path = sorted(again.glob("*/*.mp4"))[0]
    query = [f"--query={path}", f"--output={tmp_path}/near.png", "--top_k=3"]

    def missed(*flags):
        caplog.clear()
        run(*query, f"--collection={tmp_path}/all.npz", *flags)
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if line.startswith("no picture of")]

    (line,) = missed()
    assert "3 of 3 items, the first: " in line and "--input says where" in line
    assert not missed(f"--input={again}")


def test_thumbnails_come_from_shards_too(clips, tmp_path, capsys):
    options = plan.Options(input=str(clips), output=str(tmp_path / "shards"), short_side=48)
    conversion.make_tfrecords(options, num_workers=1)
    run(f"--input={tmp_path}/shards", f"--output={tmp_path}/all.npz")
    rows = collection.load(f"{tmp_path}/all.npz")
    opened = collection.open_collection(f"{tmp_path}/all.npz")
    items = [search.Item(1.0, str(rows["names"][i]), int(rows["timestamps"][i])) for i in (7, 50)]
    images, missing = neighbours_picture.thumbnails(opened, items)
    assert missing == "" and all(image.shape[0] == 48 for image in images)
    found = search.nearest(opened, rows["features"][50], representation="features", per_video=0)
    assert found[0].cosine == pytest.approx(1) and found[0].name == rows["names"][50]
    shutil.rmtree(tmp_path / "shards")
    images, missing = neighbours_picture.thumbnails(opened, items)
    assert images == [None, None] and missing.startswith("no picture of 2 of 2 items")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query=a.mp4"], "--query and --collection are needed"),
        (["--collection=a.npz"], "--query and --collection are needed"),
        (["--query=a", "--collection=b"], "--collection=b: must end in .npz or .tfrecord"),
        (["--query=a", "--collection=b.npz", "--output=c.npz"], "must end in .png"),
        (["--query=a", "--collection=nowhere.npz"], "nowhere.npz does not exist"),
        (["--query=a", "--collection=nowhere.tfrecord"], "nowhere.json does not exist"),
        (["--input=nowhere", "--output=a.npz"], "--input=nowhere does not exist"),
        (["--input=a", "--output=s3://b/c.npz"], "must be a file on a local disk"),
    ],
)
def test_mistakes_in_flags(flags, message):
    with pytest.raises(errors.UserError, match=message):
        run(*flags)


def test_queries_that_cannot_be_answered(clips, whole, tmp_path):
    query = f"--query={sorted(clips.glob('*/*.mp4'))[0]}"
    with pytest.raises(errors.UserError, match=r"was made by another encoder \(none\)"):
        run(query, f"--collection={whole}", "--seed=1")
    with pytest.raises(errors.UserError, match=f"{clips}: holds 8 videos: name one"):
        run(f"--query={clips}", f"--collection={whole}")
    with pytest.raises(errors.UserError, match="--query=nowhere.mp4 does not exist"):
        run("--query=nowhere.mp4", f"--collection={whole}")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(errors.UserError, match="text.mp4: no readable video file"):
        run(f"--query={tmp_path}/text.mp4", f"--collection={whole}")
