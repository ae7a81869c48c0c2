"""Tiny videos whose every frame is known, for the tests of the data path."""

import os
import signal
import time

import av
import numpy as np
from PIL import Image

from tce_tf.data import conversion

HEIGHT, WIDTH, FRAMES, FPS = 48, 64, 12, 10
# Left upper, right upper, left lower, right lower: a turned or mirrored picture shows.
COLOURS = ((220, 40, 40), (40, 200, 40), (40, 60, 220), (210, 210, 60))


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Four coloured quarters, the last one darker with each frame: uint8 [height, width, 3]."""
    image = np.zeros((height, width, 3), np.uint8)
    half_h, half_w = height // 2, width // 2
    image[:half_h, :half_w], image[:half_h, half_w:] = COLOURS[0], COLOURS[1]
    image[half_h:, :half_w] = COLOURS[2]
    image[half_h:, half_w:] = np.array(COLOURS[3]) - 8 * number
    return image


def quarters(image: np.ndarray) -> np.ndarray:
    """Mean colour of the inner part of each quarter, float [4, 3]."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    boxes = [image[:h, :w], image[:h, w:], image[h:, :w], image[h:, w:]]
    return np.array([b[h // 4 : -h // 4, w // 4 : -w // 4].mean((0, 1)) for b in boxes])


def write_video(
    path, *, frames=FRAMES, height=HEIGHT, width=WIDTH, codec="libx264", pts=None, gop=4
) -> str:
    """Writes a video; `pts` are milliseconds, one a frame."""
    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.options = {"crf": "5", "preset": "ultrafast"}
        else:
            stream.bit_rate = 4_000_000
        if pts is not None:
            from fractions import Fraction

            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width))
            if pts is not None:
                frame.pts, frame.time_base = pts[number], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def write_frames(
    folder, *, frames=FRAMES, height=HEIGHT, width=WIDTH, name="frame{:06d}.jpg"
) -> str:
    """Writes a frame folder, numbered from 1."""
    os.makedirs(folder, exist_ok=True)
    for number in range(frames):
        image = Image.fromarray(picture(number, height, width))
        image.save(os.path.join(folder, name.format(number + 1)), quality=95)
    return str(folder)


_encode_record = conversion.encode_record  # before a test replaces it


def encode_with_faults(clip, encoding, path):
    """Stands in for `conversion.encode_record` in worker processes: one crash, one hang."""
    if "Run_g02" in clip.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "Run_g03" in clip.name:
        time.sleep(60)
    return _encode_record(clip, encoding, path)
