"""How does a picture get its stored size, and when is an existing JPEG stored as it is?

Resizing is libswscale's bicubic, which widens its kernel when it shrinks, so fine patterns do not
alias; it is what `ffmpeg -vf scale=-2:256` does and hence what the field's frame folders hold.
Sample aspect ratio is ignored, as OpenCV, decord and torchvision do. JPEGs are written by
libjpeg-turbo (simplejpeg) with 4:2:0 chroma: the same bytes for the same picture and quality.
"""

import contextlib
import dataclasses
import itertools
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import av
import numpy as np
import simplejpeg
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageOps

MAX_SOURCE_PIXELS = 2**26  # 8192 x 8192: what a header may claim before any memory is taken
MAX_JPEG_SIDE = 65_500  # libjpeg's own limit
_TOO_LARGE = f"more than the {MAX_SOURCE_PIXELS} px this program decodes"
# What frame folders hold. Pillow knows a file by its content, whatever its name, and for some other
# formats (PostScript) it starts programs.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")

Item = TypeVar("Item")
_local = threading.local()
_INTERPOLATION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

# JPEG markers that start a frame header; C4, C8 and CC in this range are tables, not frames.
_BASELINE_MARKERS = {0xC0, 0xC1}
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class VideoError(Exception):
    """A video or picture that cannot be used; the message is the reason `rejected.csv` gives."""


class ReadError(VideoError):
    """One that the system could not read: another time it may."""


@dataclasses.dataclass(frozen=True)
class Sizing:
    """The asked size of stored frames.

    Attributes:
      short_side: px of the shorter side, reached exactly whether that shrinks or enlarges; the
        longer one keeps the aspect and is rounded to the nearest even number. 0 keeps all sizes.
      size: (height, width) px, exactly, aspect ignored; overrides `short_side`.
    """

    short_side: int = 256
    size: tuple[int, int] | None = None

    def fits(self, height: int, width: int) -> bool:
        """Whether frames of this size are stored as they are (an odd long side too)."""
        if self.size:
            return (height, width) == self.size
        return not self.short_side or min(height, width) == self.short_side

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The stored (height, width) of frames that are `height` x `width` px.

        Raises:
          VideoError: the aspect is so extreme that no JPEG can hold the result, or no reader would
            take it.
        """
        if self.fits(height, width):
            return height, width
        if self.size:
            return self.size
        short = self.short_side
        # round(x / 2) * 2 as integers: nearest even number, at least 2.
        long = max(
            2, (max(height, width) * short + min(height, width)) // (2 * min(height, width)) * 2
        )
        if long > MAX_JPEG_SIDE:
            raise VideoError(
                f"{width}x{height} px with a short side of {short} would be {long} px long"
            )
        if short * long > MAX_SOURCE_PIXELS:
            raise VideoError(f"{width}x{height} px with a short side of {short} is {_TOO_LARGE}")
        return (short, long) if height <= width else (long, short)


def check_pixels(height: int, width: int) -> None:
    """Refuses a claimed size before any memory is taken for it.

    Raises:
      VideoError: empty, or more than MAX_SOURCE_PIXELS.
    """
    if height < 1 or width < 1:
        raise VideoError("the picture size is missing")
    if height * width > MAX_SOURCE_PIXELS:
        raise VideoError(f"{width}x{height} px is {_TOO_LARGE}")


def batches(
    frames: Iterator[Item], batch_size: int, image_of: Callable[[Item], np.ndarray] = lambda x: x[1]
) -> Iterator[list[Item]]:
    """Groups of frames for a network; their pixels together are no more than one picture may have.

    Args:
      frames: (time stamp, uint8 [..., H, W, 3]), or other things; of one size.
      batch_size: frames in a group, where their size allows it; always at least one.
      image_of: the picture in one of them.
    """
    for first in frames:
        pixels = image_of(first).size // 3
        count = max(1, min(batch_size, MAX_SOURCE_PIXELS // pixels))
        yield [first, *itertools.islice(frames, count - 1)]


def reformat(frame: av.VideoFrame, height: int, width: int, pixel_format: str) -> av.VideoFrame:
    """A decoded frame at another size and in another pixel format of libav's."""
    if not hasattr(_local, "reformatter"):
        # Kept: setting one up for each frame costs as much as a tenth of the work.
        _local.reformatter = VideoReformatter()
    return _local.reformatter.reformat(
        frame,
        width=width,
        height=height,
        format=pixel_format,
        interpolation=_INTERPOLATION,
        threads=1,  # videos are decoded in parallel already; and the same bytes on every machine
    )


def to_rgb(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """A decoded frame as uint8 [height, width, 3] RGB in [0, 255]; any pixel format and depth."""
    return reformat(frame, height, width, "rgb24").to_ndarray()


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An RGB picture at another size: uint8 [H, W, 3] -> uint8 [height, width, 3]."""
    if image.shape[:2] == (height, width):
        return image
    return to_rgb(av.VideoFrame.from_ndarray(np.ascontiguousarray(image)), height, width)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """A JPEG file of a picture.

    Args:
      image: uint8 [H, W, 3] RGB in [0, 255].
      quality: 1 to 100.
    """
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="420"
    )


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """What a JPEG file says about itself; see `read_jpeg_header`."""

    height: int
    width: int
    plain: bool  # baseline 8-bit, grey or colour, no Exif: every decoder shows it alike
    complete: bool  # ends with the end-of-image marker


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Size and kind of a JPEG file without decoding it; None when the bytes are no JPEG."""
    if data[:2] != b"\xff\xd8":
        return None
    position, exif = 2, False
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # fill byte, no content
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        content = position + 4
        if marker == 0xE1 and data[content : content + 4] == b"Exif":
            exif = True
        if marker in _FRAME_MARKERS:
            if content + 6 > len(data):
                return None
            depth, height, width, components = struct.unpack_from(">BHHB", data, content)
            plain = marker in _BASELINE_MARKERS and depth == 8 and components in (1, 3) and not exif
            return JpegHeader(height, width, plain, data[-2:] == b"\xff\xd9")
        if marker == 0xDA or length < 2:
            return None
        position += 2 + length
    return None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """A picture file in Pillow, its claimed size checked; any fault is a VideoError that names it."""
    name = os.path.basename(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; check_pixels decides
            with Image.open(path, formats=_FORMATS) as picture:
                check_pixels(picture.height, picture.width)
                yield picture
    except VideoError as error:
        raise VideoError(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise VideoError(f"{name}: {_TOO_LARGE}") from error
    # Its readers of the formats raise whatever a damaged file leads them to.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).replace(f" {path!r}", "")
        raise VideoError(f"{name}: {reason or type(error).__name__}") from error


def load_picture(path: str) -> np.ndarray:
    """Decodes a picture file (JPEG, PNG, BMP, WebP, ...), Exif rotation applied.

    Returns:
      uint8 [H, W, 3] RGB in [0, 255].

    Raises:
      VideoError: empty, truncated, no picture, or too large; the message names the file.
    """
    with _opened(path) as picture:
        return np.asarray(_eight_bit(ImageOps.exif_transpose(picture)).convert("RGB"))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits: Pillow's `convert` would clip it to white instead."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)
    if picture.mode == "F" or values.max(initial=0) <= 255:
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))


def stored_jpeg(path: str, target: tuple[int, int], quality: int) -> bytes:
    """A frame folder's picture as it is stored: byte for byte where it already fits.

    Args:
      path: picture file.
      target: stored (height, width) px.
      quality: of a re-encoded picture.

    Raises:
      VideoError: unreadable; the message names the file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise VideoError(f"{os.path.basename(path)}: {error.strerror}") from error
    header = read_jpeg_header(data)
    if header and not header.complete and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise VideoError(f"{os.path.basename(path)}: the JPEG ends before its picture does")
    if header and header.plain and header.complete and (header.height, header.width) == target:
        return data
    return encode_jpeg(resize(load_picture(path), *target), quality)


def picture_size(path: str) -> tuple[int, int]:
    """A picture file's (height, width) px as displayed, without decoding it.

    Raises:
      VideoError: no picture; the message names the file.
    """
    try:
        with open(path, "rb") as file:
            header = read_jpeg_header(file.read(2**16))
        if header and header.plain:
            check_pixels(header.height, header.width)
            return header.height, header.width
    except (VideoError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{os.path.basename(path)}: {reason}") from error
    with _opened(path) as picture:
        width, height = picture.size
        # Exif orientations 5 to 8 exchange the sides.
        return (width, height) if picture.getexif().get(0x0112, 1) >= 5 else (height, width)
