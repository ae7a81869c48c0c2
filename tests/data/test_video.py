"""Decoded pictures, times, sizes and damage, on videos whose frames are known."""

import io
import os
import shutil

import numpy as np
import pytest
import tiny_videos
from PIL import Image

from tce_tf.data import pictures, video, video_source
from tce_tf.data.pictures import Sizing, VideoError

SHARED_ODD = os.path.join(os.path.dirname(__file__), "../../../shared/data/odd")
needs_odd = pytest.mark.skipif(
    not os.path.isdir(SHARED_ODD), reason="../shared/data/odd (odd real videos) is not here"
)


def _decode(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def _assert_is_picture(image, number, tolerance=8):
    expected = tiny_videos.quarters(tiny_videos.picture(number))
    np.testing.assert_allclose(tiny_videos.quarters(image), expected, atol=tolerance)


@pytest.mark.parametrize(
    ("sizing", "source", "stored"),
    [
        (Sizing(256), (240, 320), (256, 342)),  # 341.33
        (Sizing(256), (320, 240), (342, 256)),
        (Sizing(256), (256, 341), (256, 341)),  # fits: odd sides stay
        (Sizing(256), (1080, 1920), (256, 456)),  # 455.1
        (Sizing(0), (33, 7), (33, 7)),
        (Sizing(size=(112, 64)), (240, 320), (112, 64)),
        (Sizing(4), (4000, 3), (5334, 4)),
    ],
)
def test_stored_size(sizing, source, stored):
    assert sizing.target(*source) == stored


def test_extreme_aspect_is_refused():
    with pytest.raises(VideoError, match="px long"):
        Sizing(256).target(8192, 1)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4")])
def test_pixels_and_times(tmp_path, name, codec):
    path = tiny_videos.write_video(tmp_path / name, codec=codec)
    frames = list(video.iterate_frames(path))
    assert [time for time, _ in frames] == [100_000 * n for n in range(tiny_videos.FRAMES)]
    for number, (_, image) in enumerate(frames):
        assert image.dtype == np.uint8 and image.shape == (48, 64, 3)
        _assert_is_picture(image, number)
    clip = video.encode_clip(path, video.EncodeOptions(Sizing(24)))
    assert (clip.height, clip.width, clip.frame_rate, clip.truncated) == (24, 32, 10.0, False)
    assert len(clip.jpegs) == tiny_videos.FRAMES
    for number, jpeg in enumerate(clip.jpegs):
        _assert_is_picture(_decode(jpeg), number, tolerance=12)


def test_irregular_times_are_kept(tmp_path):
    times = [0, 10, 200, 210, 500, 900]
    path = tiny_videos.write_video(tmp_path / "a.mkv", frames=6, pts=times)
    assert [time for time, _ in video.iterate_frames(path)] == [1000 * time for time in times]


class _Stamped:
    def __init__(self, pts, dts=None):
        self.pts, self.dts = pts, dts


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([(5, 5), (6, 6), (9, 9)], [0, 10, 40]),
        ([(None, None)] * 3, [0, 100, 200]),
        ([(0, None), (10, None), (10, None), (11, None), (40, None)], [0, 100, 200, 300, 400]),
        ([(3, None), (1, None), (2, None)], [0, 100, 200]),
    ],
)
def test_missing_and_backward_stamps(stamps, times):
    class Stream:
        time_base, start_time = 0.01, None

    class Container:
        class format:
            name = "mov,mp4"

    clock = video_source._Times(Container, Stream, 10.0, cut=False)
    assert [clock.of(_Stamped(*stamp)) // 1000 for stamp in stamps] == times


@pytest.mark.parametrize(
    ("fps", "kept"), [(10, range(12)), (30, range(12)), (5, range(0, 12, 2)), (2, (0, 5, 10))]
)
def test_fps_leaves_frames_out_and_repeats_none(tmp_path, fps, kept):
    path = tiny_videos.write_video(tmp_path / "a.mkv")
    clip = video.encode_clip(path, video.EncodeOptions(Sizing(0), fps=fps))
    assert clip.timestamps.tolist() == [100_000 * n for n in kept]
    assert clip.frame_rate == min(fps, 10)
    for number, jpeg in zip(kept, clip.jpegs, strict=True):
        _assert_is_picture(_decode(jpeg), number)


def test_pieces_join_to_the_whole(tmp_path):
    path = tiny_videos.write_video(tmp_path / "a.mp4")
    options = video.EncodeOptions(Sizing(0))
    whole = video.encode_clip(path, options)
    bounds = [0, 350_000, 900_000, None]
    parts = [
        video.encode_clip(path, options, start or 0, end)
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    assert [len(part.jpegs) for part in parts] == [4, 5, 3]
    assert sum((part.jpegs for part in parts), []) == whole.jpegs
    assert np.concatenate([p.timestamps for p in parts]).tolist() == whole.timestamps.tolist()


def test_damaged_middle_costs_frames_up_to_the_next_key_frame(tmp_path):
    path = tiny_videos.write_video(tmp_path / "a.avi", codec="mpeg4", frames=40, gop=8)
    data = bytearray(open(path, "rb").read())
    middle = data.index(b"00dc", len(data) // 2)
    data[middle + 8 : middle + 120] = bytes(112)
    (tmp_path / "b.avi").write_bytes(data)
    clip = video.encode_clip(str(tmp_path / "b.avi"), video.EncodeOptions(Sizing(0)))
    assert clip.truncated and 30 <= len(clip.jpegs) < 40
    for time, jpeg in zip(clip.timestamps, clip.jpegs, strict=True):
        expected = tiny_videos.quarters(tiny_videos.picture(int(time) // 100_000))
        # uint8 wraps in `picture` after frame 7 for the last quarter: only the first three count.
        np.testing.assert_allclose(tiny_videos.quarters(_decode(jpeg))[:3], expected[:3], atol=12)


def test_cut_off_end_keeps_what_is_there(tmp_path):
    path = tiny_videos.write_video(tmp_path / "a.avi", codec="mpeg4", frames=40)
    data = open(path, "rb").read()
    end = data.index(b"movi")
    for _ in range(20):
        end = data.index(b"00dc", end + 1)
    (tmp_path / "b.avi").write_bytes(data[: end + 30])
    clip = video.encode_clip(str(tmp_path / "b.avi"), video.EncodeOptions(Sizing(0)))
    assert clip.truncated and 10 < len(clip.jpegs) < 30


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"not a video at all" * 50, "no readable video")]
)
def test_files_that_are_no_videos(tmp_path, content, reason):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        video.encode_clip(str(tmp_path / "a.mp4"), video.EncodeOptions())


def test_playlist_called_mp4_opens_nothing_else(tmp_path):
    tiny_videos.write_video(tmp_path / "secret.ts")
    (tmp_path / "a.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(VideoError):
        video.encode_clip(str(tmp_path / "a.mp4"), video.EncodeOptions())


def test_too_large_record_names_the_flag(tmp_path):
    path = tiny_videos.write_video(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="--clip_seconds"):
        video.encode_clip(path, video.EncodeOptions(max_bytes=2000))


def test_fitting_jpegs_are_kept_byte_for_byte(tmp_path):
    folder = tiny_videos.write_frames(tmp_path / "f", name="frame{}.jpg")
    files = [open(os.path.join(folder, f"frame{n}.jpg"), "rb").read() for n in range(1, 13)]
    for sizing in (Sizing(48), Sizing(0), Sizing(size=(48, 64))):
        clip = video.encode_clip(folder, video.EncodeOptions(sizing))
        assert clip.jpegs == files
    assert clip.timestamps.tolist() == [40_000 * n for n in range(12)]
    smaller = video.encode_clip(folder, video.EncodeOptions(Sizing(24)))
    assert (smaller.height, smaller.width) == (24, 32)
    _assert_is_picture(_decode(smaller.jpegs[3]), 3, tolerance=12)


def test_odd_pictures_are_encoded_again(tmp_path):
    image = Image.fromarray(tiny_videos.picture(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    image.rotate(90, expand=True).save(tmp_path / "1.jpg", quality=95, exif=exif)
    image.save(tmp_path / "2.jpg", quality=95, progressive=True)
    image.convert("CMYK").save(tmp_path / "3.jpg", quality=95)
    image.save(tmp_path / "4.png")
    image.resize((128, 96)).save(tmp_path / "5.jpg", quality=95)
    clip = video.encode_clip(str(tmp_path), video.EncodeOptions(Sizing(48)))
    assert (clip.height, clip.width, len(clip.jpegs), clip.truncated) == (48, 64, 5, False)
    for jpeg in clip.jpegs:
        header = pictures.read_jpeg_header(jpeg)
        assert (header.height, header.width) == (48, 64) and header.plain and header.complete
        _assert_is_picture(_decode(jpeg), 0, tolerance=12)


def test_grey_and_sixteen_bit_pictures(tmp_path):
    Image.fromarray(np.full((48, 64), 200, np.uint8)).save(tmp_path / "1.jpg", quality=95)
    Image.fromarray(np.full((48, 64), 200 * 257, np.uint16)).save(tmp_path / "2.png")
    clip = video.encode_clip(str(tmp_path), video.EncodeOptions(Sizing(48)))
    assert clip.jpegs[0] == (tmp_path / "1.jpg").read_bytes()
    assert abs(_decode(clip.jpegs[1]).mean() - 200) < 3


def test_damaged_picture_is_left_out_and_marked(tmp_path):
    folder = tiny_videos.write_frames(tmp_path / "f", name="{}.jpg")
    data = (tmp_path / "f" / "5.jpg").read_bytes()
    (tmp_path / "f" / "5.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "f" / "7.jpg").write_bytes(b"")
    clip = video.encode_clip(folder, video.EncodeOptions(Sizing(48)))
    assert clip.truncated and len(clip.jpegs) == 10
    assert clip.timestamps.tolist() == [40_000 * n for n in range(12) if n not in (4, 6)]


def test_claimed_sizes_are_refused_before_decoding(tmp_path):
    folder = tiny_videos.write_frames(tmp_path / "f", frames=1, name="{}.jpg")
    data = bytearray((tmp_path / "f" / "1.jpg").read_bytes())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = (60_000).to_bytes(2, "big") * 2
    (tmp_path / "f" / "1.jpg").write_bytes(data)
    with pytest.raises(VideoError, match="60000x60000"):
        video.encode_clip(folder, video.EncodeOptions(Sizing(48)))


def test_names_that_look_like_protocols_and_spaces(tmp_path):
    path = tiny_videos.write_video(tmp_path / "a.mp4")
    for name in ("http:x.mp4", "with space 'quote'.mp4", "new\nline.mp4", "per%20cent#.mp4"):
        shutil.copy(path, tmp_path / name)
        assert len(list(video.iterate_frames(str(tmp_path / name)))) == tiny_videos.FRAMES


def test_probe(tmp_path):
    path = tiny_videos.write_video(tmp_path / "a.mp4")
    assert video.probe(path) == video.Probe(1.2, 12, 48, 64)
    folder = tiny_videos.write_frames(tmp_path / "f")
    assert video.probe(folder) == video.Probe(12 / 25, 12, 48, 64)


@needs_odd
@pytest.mark.parametrize(
    ("name", "frames", "truncated"),
    [
        ("corrupted.mp4", 28, True),
        ("test.avi", 164, False),
        ("unordered.mov", 4, False),
        ("av1_video.mkv", 125, False),
        ("h265_10bits.mp4", 30, False),
        ("part_0.mp4", 32, False),
        ("v_biking_01_01.mpg", 151, False),
    ],
)
def test_odd_files(name, frames, truncated):
    clip = video.encode_clip(os.path.join(SHARED_ODD, name), video.EncodeOptions(Sizing(32)))
    assert (len(clip.jpegs), clip.truncated) == (frames, truncated)
    steps = np.diff(clip.timestamps)
    assert (steps > 0).all()
    assert len(set(steps.tolist())) > 1 or name != "part_0.mp4"


@needs_odd
def test_rotation():
    """`video_180.mov` and `video_90.mov` are upright keyboards only when turned."""
    shapes = {}
    for name in ("video_0", "video_90", "video_180"):
        _, image = next(video.iterate_frames(os.path.join(SHARED_ODD, f"{name}.mov"), Sizing(64)))
        shapes[name] = image.shape
        import av

        with av.open(os.path.join(SHARED_ODD, f"{name}.mov")) as container:
            frame = next(container.decode(video=0))
            upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        expected = np.asarray(Image.fromarray(upright).resize(image.shape[1::-1], Image.BICUBIC))
        assert np.abs(expected.astype(int) - image).mean() < 4
    assert shapes == {
        "video_0": (64, 114, 3),
        "video_90": (114, 64, 3),
        "video_180": (64, 114, 3),
    }
