"""What videos does an input hold, and is a frame found again by its time? For every kind of input."""

import numpy as np
import pytest
from PIL import Image
from tiny_videos import FRAMES, picture, write_frames, write_video

from tce_tf import errors
from tce_tf.data import conversion, footage, plan, progress

TIMES = [100_000 * n for n in range(FRAMES)]


def number_of(image):
    """Which frame of `tiny_videos` an image is, by its last quarter."""
    height, width = image.shape[:2]
    found = image[height * 3 // 4, width * 3 // 4].astype(float)
    known = [picture(n)[40, 50].astype(float) for n in range(FRAMES)]
    return int(np.argmin([np.abs(found - colour).sum() for colour in known]))


def check(found, number, times):
    """Frames come in order, and each is found again by its time."""
    frames = list(found.frames(number))
    assert [timestamp for timestamp, _ in frames] == times
    assert [number_of(image) for _, image in frames] == list(range(FRAMES))
    assert found.num_frames(number) == FRAMES
    for n in (0, 1, 7, FRAMES - 1):
        np.testing.assert_array_equal(found.frame_at(number, times[n]), frames[n][1])
    assert found.stamp(number) == found.stamp(number) != []


@pytest.fixture(name="folder")
def _folder(tmp_path):
    root = tmp_path / "videos"
    write_video(root / "a" / "one.mp4")
    write_video(root / "two.avi", codec="mpeg4")
    write_frames(root / "b" / "three")
    return root


def test_a_folder(folder):
    found = footage.open_footage(str(folder))
    assert found.names == ["a/one", "b/three", "two"]
    assert found.sources == ["a/one.mp4", "b/three", "two.avi"] and found.root == str(folder)
    check(found, 0, TIMES)
    check(found, 1, [40_000 * n for n in range(FRAMES)])
    check(found, 2, TIMES)
    stamp = found.stamp(2)
    write_video(folder / "two.avi", frames=4)
    assert found.stamp(2) != stamp
    again = footage.Files(found.root, ["x"], ["gone.mp4"])
    with pytest.raises(footage.VideoError, match="gone.mp4 does not exist"):
        again.frame_at(0, 0)
    assert again.stamp(0) == [] and again.num_frames(0) == 0


def test_one_video_one_picture_one_frame_folder(folder, monkeypatch):
    monkeypatch.chdir(folder / "a")
    found = footage.open_footage("one.mp4")
    assert (found.root, found.names, found.sources) == (f"{folder}/a", ["one"], ["one.mp4"])
    check(found, 0, TIMES)
    found = footage.open_footage(str(folder / "b" / "three"))
    assert found.names == ["three"]
    check(found, 0, [40_000 * n for n in range(FRAMES)])
    Image.fromarray(picture(5)).save(folder / "still.png")
    found = footage.open_footage(str(folder / "still.png"))
    ((timestamp, image),) = found.frames(0)
    assert timestamp == 0 and found.num_frames(0) == 1
    np.testing.assert_array_equal(image, picture(5))
    np.testing.assert_array_equal(found.frame_at(0, 0), picture(5))


def test_a_list_of_some(folder):
    path = folder / "some.csv"
    path.write_text(f"path\n{folder}/two.avi\n{folder}/a/one.mp4\n{folder}/none.mp4\n")
    found = footage.open_footage(str(path))
    assert found.root == str(folder) and found.sources == ["a/one.mp4", "two.avi"]
    ((missing, reason),) = found.rejected
    assert missing == f"{folder}/none.mp4" and "not found" in reason
    check(found, 1, TIMES)


def test_shards_and_a_damaged_frame(folder, tmp_path, caplog):
    shards = tmp_path / "shards"
    options = plan.Options(input=str(folder), output=str(shards), short_side=48)
    conversion.make_tfrecords(options, num_workers=1)
    found = footage.open_footage(str(shards))
    assert found.names == ["a/one", "b/three", "two"] and found.sources == [None] * 3
    check(found, 0, TIMES)
    (file,) = shards.glob("*.tfrecord")
    index = np.load(file.with_suffix(".index.npy"))
    content = bytearray(file.read_bytes())
    content[int(index["offset"][3]) + 40] ^= 255
    content[int(index["offset"][FRAMES * 2]) + 40] ^= 255
    file.write_bytes(content)
    found = footage.open_footage(str(shards))
    numbers = [number_of(image) for _, image in found.frames(0)]
    assert numbers == [0, 1, 2, *range(4, FRAMES)]
    assert "left out: cannot read frame 3 of video a/one" in caplog.text
    with pytest.raises(footage.VideoError, match="wrong checksum"):
        found.frame_at(2, 0)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="--query=nowhere does not exist"):
        footage.open_footage("nowhere", flag="query")
    with pytest.raises(errors.UserError, match="holds no videos"):
        footage.open_footage(str(tmp_path))
    path = write_video(tmp_path / "\udcff.mp4")
    with pytest.raises(errors.UserError, match="name is not UTF-8"):
        footage.open_footage(path)


def test_parts_of_videos_move_the_progress():
    seconds = iter([0.0, 10.0, 10.0, 20.0, 20.0])
    shown = progress.Progress(2, "videos", interval_seconds=99, clock=lambda: next(seconds))
    shown.add(100, 0.5)
    assert shown.line() == "0.5/2 videos, 0.1 videos/s, 10 frames/s, 30 s left"
    shown.add(100, 0.5)
    assert shown.line() == "1/2 videos, 0.1 videos/s, 10 frames/s, 20 s left"
