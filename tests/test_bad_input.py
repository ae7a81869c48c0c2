"""What do the commands make of a folder full of damaged, odd and badly named videos? All of the rest."""

import collections
import csv
import json
import os
import re
import struct
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tce_tf import command, embed, errors, make_tfrecords, visualize
from tce_tf.data import pictures, plan, shard_reader, steps, video, workers
from tce_tf.evaluation import collection

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "data"))

import bad_input  # noqa: E402 -- found beside the tests of the data path
import tiny_videos  # noqa: E402

ENCODER = "--image_size=32"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "all"
    bad_input.make(str(folder))
    return str(folder)


def run(module, *arguments):
    module.main(command.parse(module.define_flags, arguments))


def check_rejected(rejected, folder):
    """Every bad path, once, with its reason; paths are absolute or below the folder."""
    found = {os.path.relpath(os.path.join(folder, path), folder): why for path, why in rejected}
    assert len(found) == len(rejected)
    assert set(found) == set(bad_input.BAD)
    for path, reason in bad_input.BAD.items():
        assert reason in found[path], path
        assert "\n" not in found[path]


def test_shards_hold_all_that_can_be_read(folder, tmp_path):
    flags = [f"--input={folder}", f"--output={tmp_path}", "--short_side=32"]
    total = len(bad_input.GOOD) + len(bad_input.BAD)
    with pytest.raises(errors.UserError, match=f"{len(bad_input.BAD)} of {total} clips were rej"):
        run(make_tfrecords, *flags)
    run(make_tfrecords, *flags, "--max_rejected_fraction=0.9")
    reader = shard_reader.ShardReader([str(tmp_path)])
    frames = reader.num_frames.tolist()
    sizes = zip(reader.heights.tolist(), reader.widths.tolist(), strict=True)
    assert dict(zip(reader.names, zip(frames, sizes, strict=True), strict=True)) == bad_input.GOOD
    for number, count in enumerate(frames):
        reader.read_frames([number] * count, range(count))
        assert (np.diff(reader.timestamps(number)) > 0).all()
    with open(tmp_path / "rejected.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    # Bytes that are no UTF-8 stand there escaped.
    rows = [(path.replace("\\udcff", "\udcff"), reason) for path, reason in rows]
    assert rows.pop(0) == ("path", "reason")
    check_rejected(rows, folder)


def test_embedding_holds_all_that_can_be_read(folder, tmp_path, capsys):
    path = f"{tmp_path}/all.npz"
    flags = ["--encoder=none", ENCODER, f"--input={folder}", f"--output={path}"]
    run(embed, *flags, "--max_rejected_fraction=0.9")
    found = collection.open_collection(path)
    (rows,) = found.blocks()
    counts = collections.Counter(rows["names"].tolist())
    assert counts == {name: frames for name, (frames, _) in bad_input.GOOD.items()}
    assert np.isfinite(rows["features"]).all()
    rejected = [(entry["path"], entry["reason"]) for entry in found.manifest["rejected"]]
    check_rejected(rejected, folder)
    total = len(bad_input.GOOD) + len(bad_input.BAD)
    assert f"{len(rejected)} of {total} videos rejected" in capsys.readouterr().out


def test_the_page_shows_all_that_can_be_read_and_escapes_names(folder, tmp_path):
    pytest.importorskip("plotly")
    path = tmp_path / "space.html"
    run(visualize, "--encoder=random", ENCODER, f"--input={folder}", f"--output={path}")
    page = path.read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', page)[1])
    assert {video["name"] for video in data["videos"]} == set(bad_input.GOOD)
    assert "</script><img" not in page and "onerror=alert" in page


@pytest.mark.parametrize("kind", ["empty.mp4", "pipe.mp4", "no pictures", "text.mp4", "audio.mp4"])
def test_one_bad_file_is_one_line(kind, folder, tmp_path, capsys):
    path = os.path.join(folder, kind)
    for module, name in ((embed, "a.npz"), (visualize, "a.png")):
        encoder = "--encoder=none" if module is embed else "--encoder=random"
        flags = [encoder, ENCODER, f"--input={path}", f"--output={tmp_path}/{name}"]
        with pytest.raises(SystemExit) as end:
            command.run(module.main, module.define_flags, flags)
        assert end.value.code == 1 and not os.path.exists(tmp_path / name)
        line = capsys.readouterr().err.splitlines()[-1]
        reason = "neither a folder nor a .csv file" if kind == "pipe.mp4" else bad_input.BAD[kind]
        assert line.startswith("error: ") and reason in line


def test_thousands_of_tiny_files(tmp_path):
    folder = tmp_path / "in"
    (folder / "frames").mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(tmp_path / "pixel.png")
    content = (tmp_path / "pixel.png").read_bytes()
    for number in range(2000):
        (folder / "frames" / f"{number}.png").write_bytes(content)
        (folder / f"{number}.mp4").write_bytes(b"x" * (number % 2))
    flags = [f"--input={folder}", f"--output={tmp_path}/out", "--short_side=0"]
    run(make_tfrecords, *flags, "--max_rejected_fraction=1")
    reader = shard_reader.ShardReader([f"{tmp_path}/out"])
    assert reader.num_frames.tolist() == [2000] and reader.num_rows == 2001
    lines = (tmp_path / "out" / "rejected.csv").read_text().splitlines()
    assert len(lines) == 2001


def test_batches_hold_no_more_pixels_than_one_picture_may():
    def sizes(height, width, count=100, batch_size=32):
        # Takes no memory: all pixels are the same byte.
        frames = [(t, np.broadcast_to(np.uint8(0), (height, width, 3))) for t in range(count)]
        batches = list(pictures.batches(iter(frames), batch_size))
        assert [frame for batch in batches for frame in batch] == frames
        return [len(batch) for batch in batches]

    assert sizes(48, 64) == [32, 32, 32, 4]
    assert sizes(1080, 1920) == [32, 32, 32, 4]
    assert sizes(2160, 3840, count=20) == [8, 8, 4]
    assert sizes(8192, 8192, count=3) == [1, 1, 1]
    assert sizes(6 * 8192, 8192, count=2) == [1, 1]  # a stack of six


def test_a_length_that_a_header_claims_is_not_believed(tmp_path):
    """12 frames that claim to last five days, cut into tenths of a second: four million rows."""
    path = tiny_videos.write_video(tmp_path / "in" / "a.mkv")
    with open(path, "rb") as file:
        data = bytearray(file.read())
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in milliseconds
    data[at : at + 8] = struct.pack(">d", 4.2e8)
    with open(path, "wb") as file:
        file.write(data)
    claimed = video.probe(path)
    assert claimed.num_frames == claimed.seconds == len(data) < 3000
    options = plan.Options(str(tmp_path / "in"), str(tmp_path / "out"), clip_seconds=0.1)
    with workers.DecodePool(1) as pool:
        assert len(plan.make_plan(options, pool).clips) == len(data)


def test_batches_beyond_the_machines_memory_are_refused():
    """The system would end the process: room that is asked for is given until it is used."""
    spec = {"frames": tf.TensorSpec([1000, 7168, 7168, 3], tf.uint8)}
    message = "a batch with frames of 7168x7168 px takes 154 GB .* smaller --short_side, or lower"
    with pytest.raises(errors.UserError, match=message):
        steps.steps_dataset(lambda step: {}, spec, start_step=0, num_steps=1)


def test_a_class_name_is_one_line(tmp_path):
    for name in ("run", "walk\nhop"):
        tiny_videos.write_frames(tmp_path / "in" / name / "a", frames=1)
    with pytest.raises(errors.UserError, match=r"class 'walk\\nhop': a class name is one line"):
        flags = [f"--input={tmp_path}/in", f"--output={tmp_path}/out", "--layout=class"]
        run(make_tfrecords, *flags)
