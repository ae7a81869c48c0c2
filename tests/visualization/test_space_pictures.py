"""Do pictures and animations show what they should? Markers, frames, counts and sizes, read back."""

import io

import av
import numpy as np
import pytest
from matplotlib import colors
from PIL import Image

from tce_tf.visualization import space_animation, space_panel, space_picture
from tce_tf.visualization.collection import Collection

FRAMES = 12


def made(encoder="random", videos=2, step=1, frame_us=40_000):
    """Frames whose thumbnail is grey of level 20 x frame, on random places."""
    rng = np.random.default_rng(len(encoder))
    jpegs = []
    for number in range(FRAMES):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), (20 * number,) * 3).save(buffer, "JPEG", quality=95)
        jpegs.append(buffer.getvalue())
    vectors = rng.normal(size=(FRAMES, 8)).astype(np.float32)
    found = Collection(
        encoder=encoder,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        names=[f"v{i}_$x_你" for i in range(videos)],
        labels=[None] * videos,
        video_of_frame=np.arange(FRAMES) * videos // FRAMES,
        timestamps=np.concatenate([np.arange(FRAMES // videos)] * videos) * step * frame_us,
        thumbnails=jpegs,
        steps=np.full(videos, step),
    )
    return found, rng.normal(size=(FRAMES, 2)).astype(np.float32)


def marker_centres(picture, panels):
    """Centre of what has the marker's colour in each panel, px (x, y)."""
    wanted = 255 * np.array(colors.to_rgb(space_animation.MARKER_COLOUR))
    hit = np.abs(picture.astype(float) - wanted).max(axis=2) < 8
    rows, columns = np.nonzero(hit)
    order = np.argsort(columns)
    rows, columns = rows[order], columns[order]
    cuts = np.flatnonzero(np.diff(columns) > 30) + 1
    parts = list(zip(np.split(columns, cuts), np.split(rows, cuts), strict=True))
    assert len(parts) == panels
    return [(x.mean(), y.mean()) for x, y in parts]


def test_the_marker_is_where_the_frame_lies_and_the_frame_beside_it():
    parts = [made("random"), made("exported/abc")]
    animation = space_animation.Animation(*zip(*parts, strict=True))
    centres = []
    for number, picture in enumerate(animation.pictures()):
        assert picture.dtype == np.uint8 and picture.shape[0] % 2 == picture.shape[1] % 2 == 0
        centres.append(marker_centres(picture, 2))
        level = np.median(picture[150:300, 100:250].reshape(-1, 3), axis=0)
        assert np.abs(level - 20 * number).max() <= 3
    assert len(centres) == FRAMES
    for panel, (_, places) in enumerate(parts):
        pixels = np.array([each[panel] for each in centres])
        # One scale for both axes, y upwards: pixel = offset + scale (x, -y).
        flipped = places * [1, -1]
        spread = flipped - flipped.mean(axis=0)
        scale = np.sum(spread * pixels) / np.sum(spread**2)
        left = pixels - pixels.mean(axis=0) - scale * spread
        assert scale > 20 and np.abs(left).max() < 1.5


@pytest.mark.parametrize(
    ("step", "frame_us", "rate"), [(1, 40_000, 25), (10, 40_000, 10), (1, 10_000, 30)]
)
def test_an_animation_has_every_frame_at_the_footage_s_pace(step, frame_us, rate, tmp_path):
    part, places = made(step=step, frame_us=frame_us)
    animation = space_animation.Animation([part], [places])
    height, width = animation.picture(0).shape[:2]
    assert animation.rate == rate
    space_animation.write_mp4(str(tmp_path / "a.mp4"), animation)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == FRAMES and frames[0].shape == (height, width, 3)
    assert np.abs(frames[7].astype(int) - animation.picture(7)).mean() < 3
    space_animation.write_gif(str(tmp_path / "a.gif"), animation)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == FRAMES and gif.size == (width, height)
        assert gif.info["duration"] == round(100 / rate) * 10 and gif.info["loop"] == 0
        gif.seek(7)
        shown = np.asarray(gif.convert("RGB")).astype(int)
    assert np.abs(shown - animation.picture(7)).mean() < 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.mp4"]


@pytest.mark.parametrize("videos", [1, 2, 12])
def test_a_picture_of_several_encoders(videos, tmp_path):
    parts = [made(name, videos) for name in ("random", "imagenet:a/b.pth", "x/exported/c", "d")]
    space_picture.write(str(tmp_path / "a.png"), *zip(*parts, strict=True))
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[0] == 255).all()  # white ground
    # The points have the colours of time: its two ends are there.
    for share in (0.0, 1.0):
        wanted = 255 * np.array(space_panel.time_map()(share)[:3])
        assert (np.abs(pixels - wanted).max(axis=2) < 3).sum() > 20


def test_titles_and_headings_can_be_read():
    assert space_panel.title("random") == space_panel.title("none") == "random weights"
    assert space_panel.title("imagenet:/a/resnet18.pth") == "ImageNet: resnet18.pth"
    assert space_panel.title("/very/long/way/exported/demo/") == "exported/demo"
    assert space_panel.heading(made(videos=2)[0]) == "2 videos, 12 frames"
    assert space_panel.heading(made(videos=1, step=4)[0]) == "v0_$x_你, 12 frames, one of 4"


def test_time_is_seconds_of_one_video_and_a_share_of_several():
    seconds, name = space_panel.times(made(videos=1)[0])
    assert name == "seconds" and seconds[-1] == pytest.approx(0.44)
    shares, _ = space_panel.times(made(videos=2)[0])
    np.testing.assert_allclose(shares, [*np.linspace(0, 1, 6)] * 2)


def test_figures_are_those_of_the_vectors_by_video():
    found, _ = made(videos=2)
    cosines = np.sum(found.vectors[:-1] * found.vectors[1:], axis=1)
    figures = space_panel.figures(found)
    inside = [*cosines[:5], *cosines[6:]]
    assert figures["neighbour_cosine"] == pytest.approx(np.mean(inside), rel=1e-5)
    cross = found.vectors[:6] @ found.vectors[6:].T
    assert figures["other_cosine"] == pytest.approx(cross.mean(), rel=1e-4)
    line = space_panel.figures_line(figures)
    assert f"neighbours {figures['neighbour_cosine']:.3f}" in line and "others" in line
    assert f"curvature {figures['curvature']:.0f}" in line and "\n" not in line
    wrapped = space_panel.figures_line(figures, in_a_line=3)
    assert wrapped.replace("\n", "   ") == line and wrapped.count("\n") == 1
