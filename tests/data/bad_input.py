"""A folder of everything that a folder of videos should not hold, and of much that it may."""

import io
import os
import shutil
import socket
from fractions import Fraction

import av
import numpy as np
import tiny_videos
from PIL import Image

SCRIPT = "a</script><img src=x onerror=alert(1)>"  # a folder and a file in it
# name -> (frames, stored (height, width) at a short side of 32)
GOOD = {
    "backwards": (6, (32, 42)),
    "dup/x": (12, (32, 42)),
    "frames": (6, (32, 42)),
    "good": (12, (32, 42)),
    "irregular": (6, (32, 42)),
    "large": (1, (32, 32)),
    "link": (12, (32, 42)),
    "odd": (3, (32, 46)),
    "one": (1, (32, 42)),
    "picture": (1, (32, 42)),
    "pixel": (3, (32, 32)),
    "sixteen": (3, (32, 42)),
    "wrong extension": (12, (32, 42)),
    SCRIPT: (12, (32, 42)),
}
AWKWARD_NAMES = ("with space", "new\nline", "quote'\"", "%s%d{0}", "-dash", "$HOME", "esc\x1b[31m")
GOOD |= {name: (12, (32, 42)) for name in AWKWARD_NAMES}
# path -> reason
BAD = {
    "audio.mp4": "it has no video stream",
    "bytes\udcff.mp4": "its name is not valid UTF-8; rename it",
    "dangling.mp4": "there is no such file",
    "dup/x.mp4": "has the same name as",
    "empty.mp4": "the file is empty",
    "pipe.mp4": "it is no regular file",
    "linked to itself.mp4": "there is no such file",
    "no frames.mkv": "no readable video file",
    "no pictures": "0.jpg: cannot identify image file",
    "socket.mp4": "it is no regular file",
    "text.mp4": "no readable video file",
    "truncated.mp4": "no readable video file",
}


def make(root: str) -> None:
    """Fills a new folder."""

    def at(*parts):
        path = os.path.join(root, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    good = tiny_videos.write_video(at("good.mp4"))
    for name in (*AWKWARD_NAMES, "dup/x", SCRIPT):
        shutil.copy(good, at(f"{name}.mp4"))
    shutil.copy(good, at("wrong extension.avi"))
    shutil.copy(good, at("dup/x.mkv"))
    shutil.copy(good, at("bytes\udcff.mp4"))
    os.symlink(".", at("loop"))
    os.symlink("good.mp4", at("link.mp4"))
    os.symlink("/nowhere.mp4", at("dangling.mp4"))
    os.symlink("linked to itself.mp4", at("linked to itself.mp4"))
    os.mkfifo(at("pipe.mp4"))
    here = os.getcwd()
    os.chdir(root)  # a socket's path is limited to some 100 bytes
    socket.socket(socket.AF_UNIX).bind("socket.mp4")
    os.chdir(here)
    _write(at("empty.mp4"), b"")
    _write(at("text.mp4"), b"not a video at all" * 50)
    with open(good, "rb") as file:
        _write(at("truncated.mp4"), file.read()[:1300])

    tiny_videos.write_video(at("one.mp4"), frames=1)
    tiny_videos.write_video(at("irregular.mkv"), frames=6, pts=[0, 10, 200, 210, 500, 900])
    with av.open(at("no frames.mkv"), "w") as container:
        _video_stream(container, "libx264", 48, 64, "yuv420p")
        container.start_encoding()
    _audio(at("audio.mp4"))
    _encode(at("odd.mkv"), "ffv1", tiny_videos.picture(0, 33, 47), "yuv444p")
    grey = np.full((48, 64), 40_000, np.uint16)
    _encode(at("sixteen.mkv"), "ffv1", grey, "gray16le", kind="gray16le")
    _encode(at("pixel.mkv"), "ffv1", np.full((1, 1, 3), 99, np.uint8), "bgr0")
    _encode(at("large.avi"), "mjpeg", np.zeros((8192, 8192, 3), np.uint8), "yuvj420p", frames=1)
    _backwards(at("backwards.mkv"))

    image = Image.fromarray(tiny_videos.picture(0))
    _write(at("picture.mp4"), _saved(image, "PNG"))
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = _saved(image, "JPEG", quality=95)
    for number, content in enumerate((
        _saved(image.convert("L"), "JPEG"),
        _saved(image.convert("CMYK"), "JPEG"),
        _saved(image, "JPEG", progressive=True),
        _saved(image.rotate(90, expand=True), "JPEG", exif=turned),
        _saved(image, "GIF"),
        jpeg,
        jpeg[: len(jpeg) // 2],
        jpeg[:-100] + bytes(100),
    )):  # fmt: skip
        _write(at("frames", f"{number}.jpg"), content)  # the last two are left out
    _write(at("no pictures", "0.jpg"), b"xx")
    _write(at("no pictures", "1.png"), b"")


def _write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def _saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _video_stream(container, codec, height, width, pixel_format):
    stream = container.add_stream(codec, rate=10)
    stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
    return stream


def _encode(path, codec, image, pixel_format, *, kind="rgb24", frames=3):
    with av.open(path, "w") as container:
        stream = _video_stream(container, codec, *image.shape[:2], pixel_format)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=kind)))
        container.mux(stream.encode(None))


def _audio(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 44_100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _backwards(path):
    """JPEG frames whose time stamps go back twice."""
    with av.open(path, "w") as container:
        stream = _video_stream(container, "mjpeg", 48, 64, "yuvj420p")
        for number, time in enumerate((0, 300, 200, 100, 400, 350)):
            image = Image.fromarray(tiny_videos.picture(number))
            packet = av.Packet(_saved(image, "JPEG"))
            packet.pts, packet.dts = time, 100 * number - 1000
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 1000), stream, True
            container.mux(packet)
