"""Synthetic clips: same seed same bytes, no shared scene, smooth motion, colour tells no class."""

import collections
import json

import av
import numpy as np
import pytest

from tce_tf import errors
from tce_tf.data import synthetic, synthetic_scenes

SMALL = {"num_frames": 6, "size": (48, 64)}


def _decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def rendered():
    """96 clips at four moments each: float [V, 4, H, W, 3], their labels and whether they test."""
    clips = synthetic.list_clips(96)
    frames = [
        np.stack(list(synthetic.render_clip(clip, size=(48, 64))))[[0, 1, 15, 31]] for clip in clips
    ]
    labels = np.array([synthetic.CLASS_NAMES.index(clip.class_name) for clip in clips])
    return np.stack(frames) / 255.0, labels, np.array([clip.is_test for clip in clips])


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthetic.make_clips(tmp_path / name, num_videos=9, seed=seed, **SMALL)
    first, second, other = (_files(tmp_path / name) for name in "abc")
    assert first == second
    videos = [name for name in first if name.endswith(".mp4")]
    assert len(videos) == 9
    assert all(first[name] != other[name] for name in videos)


def test_a_clip_does_not_depend_on_how_many_are_made(tmp_path):
    few, many = tmp_path / "few", tmp_path / "many"
    synthetic.make_clips(few, num_videos=4, num_classes=4, **SMALL)
    synthetic.make_clips(many, num_videos=20, **SMALL)
    for path in few.rglob("*.mp4"):
        assert path.read_bytes() == (many / path.relative_to(few)).read_bytes()


def test_videos_decode_to_what_was_rendered(tmp_path):
    clip = synthetic.make_clips(tmp_path / "v", num_videos=1, num_frames=5)[0]
    path = tmp_path / "v" / clip.path
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == synthetic.FPS
    decoded = _decode(path).astype(float)
    rendered = np.stack(list(synthetic.render_clip(clip, num_frames=5))).astype(float)
    assert decoded.shape == rendered.shape == (5, 96, 128, 3)
    assert np.abs(decoded - rendered).mean() < 8  # lossy, and colour at half the resolution


def test_a_rerun_leaves_finished_clips_and_makes_the_rest(tmp_path):
    output = tmp_path / "v"
    synthetic.make_clips(output, num_videos=4, **SMALL)
    first = output / "Arrows" / "v_Arrows_g01_c01.mp4"
    lost = output / "Chevrons" / "v_Chevrons_g01_c01.mp4"
    content, stamp = lost.read_bytes(), first.stat().st_mtime_ns
    lost.unlink()
    lost.with_name(f".{lost.name}.partial").write_bytes(b"interrupted")
    synthetic.make_clips(output, num_videos=6, **SMALL)
    assert first.stat().st_mtime_ns == stamp
    assert lost.read_bytes() == content
    assert len(list(output.rglob("*.mp4"))) == 6
    assert not list(output.rglob("*.partial"))
    assert len((output / "splits" / "trainlist01.txt").read_text().splitlines()) == 6


def test_lists_are_balanced_and_share_no_scene(tmp_path):
    synthetic.make_clips(tmp_path, num_videos=96, num_frames=1, size=(16, 16))
    splits = tmp_path / "splits"
    train = [line.split() for line in (splits / "trainlist01.txt").read_text().splitlines()]
    test = (splits / "testlist01.txt").read_text().splitlines()
    classes = dict(line.split() for line in (splits / "classInd.txt").read_text().splitlines())
    assert list(classes.values()) == sorted(synthetic.CLASS_NAMES)
    assert list(classes) == [str(i) for i in range(1, 9)]
    assert all(classes[label] == path.split("/")[0] for path, label in train)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.mp4")}
    assert files == {path for path, _ in train} | set(test)

    def groups(paths):
        return {path.rsplit("_", 1)[0] for path in paths}

    assert not groups(path for path, _ in train) & groups(test)
    assert collections.Counter(label for _, label in train) == dict.fromkeys(classes, 8)
    assert collections.Counter(path.split("/")[0] for path in test) == dict.fromkeys(
        synthetic.CLASS_NAMES, 4
    )


@pytest.mark.parametrize("num_videos", [16, 17, 40, 96, 200])
def test_every_class_has_train_and_test_clips(num_videos):
    clips = synthetic.list_clips(num_videos)
    assert len({clip.path for clip in clips}) == num_videos
    sides = {(clip.class_name, clip.is_test) for clip in clips}
    assert len(sides) == 2 * len(synthetic.CLASS_NAMES)
    counts = collections.Counter(clip.class_name for clip in clips).values()
    assert max(counts) - min(counts) <= 1


def test_clips_of_a_group_share_the_scene_but_not_the_motion():
    def frame(group, number):
        clip = synthetic.Clip("Domes", group, number)
        return next(synthetic.render_clip(clip, num_frames=1)).astype(float)

    def colour_distance(a, b):
        return np.abs(np.median(a, axis=(0, 1)) - np.median(b, axis=(0, 1))).mean()

    pairs = [(frame(g, 1), frame(g, 2), frame(g + 1, 1)) for g in range(1, 13)]
    same = np.mean([colour_distance(a, b) for a, b, _ in pairs])
    different = np.mean([colour_distance(a, c) for a, _, c in pairs])
    assert same < 0.5 * different
    assert min(np.abs(a - b).mean() for a, b, _ in pairs) > 5


def test_neighbouring_frames_are_alike_and_distant_ones_are_not(rendered):
    frames, _, _ = rendered
    neighbours = np.abs(frames[:, 0] - frames[:, 1]).mean(axis=(1, 2, 3))
    distant = np.abs(frames[:, 0] - frames[:, 2]).mean(axis=(1, 2, 3))
    others = np.abs(frames[:, 0] - np.roll(frames[:, 0], 1, axis=0)).mean(axis=(1, 2, 3))
    assert neighbours.mean() < 0.25 * others.mean()
    assert neighbours.max() < 0.5 * others.mean()
    assert distant.mean() > 2 * neighbours.mean()  # the nuisances do vary within a clip


@pytest.mark.parametrize("feature", ["mean colour", "histogram", "mean frame"])
def test_colour_and_layout_do_not_tell_the_class(rendered, feature):
    frames, labels, is_test = rendered
    if feature == "mean colour":
        rows = frames.mean(axis=(1, 2, 3))
    elif feature == "mean frame":
        rows = frames.mean(axis=1).reshape(len(frames), -1)
    else:
        rows = np.stack(
            [np.histogramdd(f.reshape(-1, 3), 4, [(0, 1)] * 3)[0].ravel() for f in frames]
        )
    distance = ((rows[is_test, None] - rows[None, ~is_test]) ** 2).sum(axis=-1)
    accuracy = np.mean(labels[~is_test][distance.argmin(axis=1)] == labels[is_test])
    assert accuracy <= 0.35  # chance is 0.125, and there are 32 test clips


@pytest.mark.parametrize("figure", sorted(synthetic_scenes.FIGURES))
def test_figures_have_an_up_and_a_down(figure):
    """Or nothing could tell by how much a frame was turned."""
    ys, xs = np.mgrid[-1:1:101j, -1:1:101j].astype(np.float32)
    shape = synthetic_scenes.FIGURES[figure](xs, ys) < 0
    for turns in (1, 2, 3):
        assert (np.rot90(shape, turns) != shape).mean() > 0.1


@pytest.mark.parametrize("figure", sorted(synthetic_scenes.FIGURES))
def test_figures_keep_their_share_of_the_area(figure):
    ys, xs = np.mgrid[-1:1:200j, -1:1:200j].astype(np.float32)
    distance = synthetic_scenes.FIGURES[figure](xs, ys)
    assert distance.dtype == np.float32
    assert 0.2 < (distance < 0).mean() < 0.6
    # A distance never changes faster than the place, or edges would be jagged.
    assert np.abs(np.diff(distance, axis=1)).max() < 1.2 * 2 / 199


def test_bad_settings_are_named(tmp_path):
    for settings, message in [
        ({"num_videos": 0}, "--num_videos=0"),
        ({"seed": -1}, "--seed=-1"),
        ({"num_classes": 9}, "--num_classes=9: must be from 2 to 8"),
        ({"size": (95, 128)}, "--size=95x128"),
    ]:
        with pytest.raises(errors.FlagError, match=message):
            synthetic.make_clips(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(errors.UserError, match="not empty"):
        synthetic.make_clips(tmp_path, num_videos=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(errors.UserError, match="notes.txt"):
        synthetic.make_clips(tmp_path / "notes.txt", num_videos=1)


def test_clips_of_other_settings_are_not_mixed_in(tmp_path):
    synthetic.make_clips(tmp_path, num_videos=3, **SMALL)
    with pytest.raises(errors.UserError, match="made with seed 0, not 1"):
        synthetic.make_clips(tmp_path, num_videos=3, seed=1, **SMALL)
    with pytest.raises(errors.UserError, match="--num_videos=3 or more"):
        synthetic.make_clips(tmp_path, num_videos=2, **SMALL)
    record = tmp_path / "splits" / "settings.json"
    assert json.loads(record.read_text())["num_videos"] == 3
    record.write_text("{")
    with pytest.raises(errors.UserError, match="damaged"):
        synthetic.make_clips(tmp_path, num_videos=3, **SMALL)
