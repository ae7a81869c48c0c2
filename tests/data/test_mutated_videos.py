"""Does any damage to a video or picture file make anything but a reason to leave it out?

Bytes of small files of many kinds are changed at random, from a fixed seed.
"""

import io
import os
import random

import av
import pytest
import tiny_videos
from PIL import Image

from tce_tf.data import pictures, video

ENCODING = video.EncodeOptions(pictures.Sizing(32))
CODECS = {
    "a.mp4": "libx264", "b.mov": "mjpeg", "c.avi": "mpeg4", "d.mkv": "libx264", "e.webm": "libvpx",
    "f.mpg": "mpeg2video", "g.flv": "flv", "h.ts": "libx264", "i.wmv": "wmv2",
}  # fmt: skip
KINDS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory):
    """Extension -> content of good files."""
    folder = tmp_path_factory.mktemp("good")
    found = {}
    for name, codec in CODECS.items():
        path = str(folder / name)
        with av.open(path, "w") as container:
            container.metadata["title"] = "a title"
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = 48, 64
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(6):
                frame = av.VideoFrame.from_ndarray(tiny_videos.picture(number))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with open(path, "rb") as file:
            found[os.path.splitext(name)[1]] = file.read()
    for kind in KINDS:
        file = io.BytesIO()
        Image.fromarray(tiny_videos.picture(0)).save(file, kind)
        found[f".{kind.lower()}"] = file.getvalue()
    return found


def changed(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place, length = rng.randrange(len(data)), rng.randrange(1, 60)
        action = rng.random()
        if action < 0.4:
            data[place] = rng.randrange(256)
        elif action < 0.6:
            data[place : place + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
        elif action < 0.75:
            del data[place : place + length]
        elif action < 0.9:
            source = rng.randrange(len(data))
            data[place:place] = data[source : source + length]
        else:
            del data[place:]
        data = data or bytearray(b"x")
    return bytes(data)


def read_all(path: str, is_picture: bool, rng: random.Random) -> None:
    """Every way in which the commands read a file."""
    start = rng.choice((0, 0, 100_000))
    if is_picture:
        readers = (pictures.load_picture, pictures.picture_size)
    else:
        readers = (
            lambda path: list(video.iterate_frames(path, start_us=start)),
            lambda path: video.encode_clip(path, ENCODING, start, 10**6),
            video.probe,
        )
    for reader in readers:
        try:
            reader(path)
        except pictures.VideoError as error:
            assert str(error)


@pytest.mark.parametrize("count", [1500, pytest.param(30_000, marks=pytest.mark.slow)])
def test_every_damage_is_a_reason(files, tmp_path, count):
    rng = random.Random(count)
    for _ in range(count):
        extension = rng.choice(list(files))
        path = tmp_path / f"x{extension}"
        path.write_bytes(changed(files[extension], rng))
        read_all(str(path), extension[1:].upper() in KINDS, rng)


@pytest.mark.parametrize("extension", [".mp4", ".avi", ".mkv", ".flv"])
def test_a_title_in_another_encoding_is_no_damage(files, tmp_path, extension):
    """Latin-1, as many an old AVI has it."""
    assert b"a title" in files[extension]
    path = tmp_path / f"x{extension}"
    path.write_bytes(files[extension].replace(b"a title", b"Gr\xf6\xdfe \xff"))
    clip = video.encode_clip(str(path), ENCODING)
    assert len(clip.jpegs) == 6 and not clip.truncated
