"""Are the right frames kept, in bounded memory, once for all encoders? On streams known to the test."""

import io

import numpy as np
import pytest
from PIL import Image

from tce_tf import errors
from tce_tf.data import footage
from tce_tf.data.pictures import VideoError
from tce_tf.visualization import collection


class Encoder:
    """Features: the first pixel's red and green, and 1; counts what it is given."""

    image_shape = (None, None, 3)

    def __init__(self):
        self.frames_seen, self.largest_batch = [], 0

    def frames(self, frames):
        self.largest_batch = max(self.largest_batch, len(frames))
        self.frames_seen += [256 * int(x[0, 0, 0]) + int(x[0, 0, 1]) for x in frames]
        rows = np.float32([[*x[0, 0, :2], 1] for x in frames])
        return {"features": rows, "embeddings": 2 * rows[:, :1]}


class StackEncoder:
    """Sees six consecutive frames: features are their numbers."""

    image_shape = (6, None, None, 3)

    def frames(self, frames):
        return {
            "features": np.float32([[256.0 * x[0, 0, 0] + x[0, 0, 1] for x in y] for y in frames])
        }


class Footage:
    """Videos of so many frames; frame t of any of them says t in its pixels."""

    root, rejected = "here", ()

    def __init__(self, *lengths, believed=None):
        self.lengths = lengths
        self.believed = believed
        self.names = [f"v{i}" for i in range(len(lengths))]
        self.labels = [None] * len(lengths)
        self.alive = self.most_alive = 0

    def num_frames(self, number):
        return self.lengths[number] if self.believed is None else self.believed

    def frames(self, number):
        for frame in range(self.lengths[number]):
            image = np.zeros((24, 32, 3), np.uint8).view(_Counted)
            image.footage = self
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
            image[:] = frame // 256, frame % 256, 0
            yield 40_000 * frame, image
        if not self.lengths[number]:
            raise VideoError("nothing in it")


class _Counted(np.ndarray):
    footage = None

    def __del__(self):
        if self.footage is not None:
            self.footage.alive -= 1


@pytest.mark.parametrize("believed", [None, 0, 7, 100_000])
@pytest.mark.parametrize(("length", "limit"), [(1, 5), (5, 5), (6, 5), (100, 7), (1000, 64)])
def test_every_nth_frame_is_kept(length, limit, believed):
    encoder = Encoder()
    (found,) = collection.collect(
        {"e": encoder}, Footage(length, believed=believed), max_frames=limit, batch_size=4
    )
    step = int(found.steps[0])
    np.testing.assert_array_equal(found.timestamps, 40_000 * np.arange(0, length, step))
    assert 1 <= len(found.timestamps) <= limit
    assert encoder.largest_batch <= 4
    if believed in (None, 0, 7):
        assert len(found.timestamps) >= min(length, limit) / 2
    wanted = np.stack([found.timestamps // 40_000 // 256, found.timestamps // 40_000 % 256], 1)
    wanted = np.hstack([wanted, np.ones((len(wanted), 1))])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found.vectors, wanted, rtol=1e-6)
    if believed is None and length <= limit:
        assert encoder.frames_seen == list(range(length))


def test_memory_does_not_grow_with_the_frames():
    most = []
    for length in (200, 5000):
        videos = Footage(length, believed=0)
        collection.collect({"e": Encoder()}, videos, max_frames=20, batch_size=8)
        most.append(videos.most_alive)
        assert videos.alive == 0
    assert most[0] == most[1] <= 2 * 8 + 2


def test_videos_share_the_frames_and_too_many_are_thinned_out():
    (found,) = collection.collect({"e": Encoder()}, Footage(30, 10, 30, 30), max_frames=40)
    assert [len(path) for path in found.paths()] == [10, 10, 10, 10]
    assert found.steps.tolist() == [3, 1, 3, 3]
    (found,) = collection.collect({"e": Encoder()}, Footage(*[20] * 9), max_frames=24)
    assert found.names == ["v0", "v3", "v6"] and len(found.timestamps) <= 24


def test_encoders_see_the_same_frames_and_stacks_the_ones_after():
    videos = Footage(40)
    one, two = collection.collect(
        {"a": Encoder(), "b": StackEncoder()}, videos, max_frames=10, batch_size=3
    )
    assert one.timestamps is two.timestamps and one.encoder == "a" and two.encoder == "b"
    stacks = np.minimum(np.arange(0, 40, 4)[:, None] + np.arange(6), 39).astype(np.float32)
    stacks /= np.linalg.norm(stacks, axis=1, keepdims=True)
    np.testing.assert_allclose(two.vectors, stacks, rtol=1e-5)


def test_thumbnails_show_their_frames():
    (found,) = collection.collect({"e": Encoder()}, Footage(90), max_frames=9, thumbnail_side=16)
    for jpeg, timestamp in zip(found.thumbnails, found.timestamps, strict=True):
        image = Image.open(io.BytesIO(jpeg))
        assert image.size == (16, 12)
        assert abs(np.asarray(image)[..., 1].mean() - timestamp / 40_000) < 4
    (found,) = collection.collect({"e": Encoder()}, Footage(9), max_frames=9, thumbnail_side=500)
    assert Image.open(io.BytesIO(found.thumbnails[0])).size == (32, 24)  # never enlarged


def test_what_cannot_be_read_is_left_out():
    (found,) = collection.collect({"e": Encoder()}, Footage(5, 0, 5), max_frames=90)
    assert found.names == ["v0", "v2"] and found.video_of_frame.tolist() == [0] * 5 + [1] * 5
    with pytest.raises(
        errors.UserError, match="here: no video that can be read; v0: nothing in it"
    ):
        collection.collect({"e": Encoder()}, Footage(0, 0), max_frames=90)


def test_classes_come_with_footage(synthetic_shards, tmp_path):
    shards = footage.open_footage(synthetic_shards["test"])
    assert len(shards.labels) == 16
    assert all(
        name.split("/")[0] == label for name, label in zip(shards.names, shards.labels, strict=True)
    )
    for name in ("b/1.mp4", "a/2.mp4"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    assert footage.open_footage(str(tmp_path / "clips")).labels == ["a", "b"]
    assert footage.open_footage(str(tmp_path / "clips" / "a" / "2.mp4")).labels == [None]
