"""How does a decoded video frame become a stored JPEG, fast and without a detour?

Video and JPEG both hold luma and half-sized chroma, so nearly all frames need no RGB: the planes are
resized, stretched from video's 16..235 to JPEG's 0..255, and encoded. That takes a third of the time
of the way through RGB and loses less, for chroma is not enlarged and halved again in between. Frames
of other kinds (other colour matrix, depth or chroma, odd sizes) go through RGB.
"""

import av
import numpy as np
import simplejpeg

from tce_tf.data import pictures

# JFIF's matrix is BT.601's; libswscale takes a frame that names none (2) for BT.601 too.
_BT601 = {2, 5, 6}
_FULL_RANGE = 2
_LIMITED = np.arange(256, dtype=np.float64)
# 16..235 and, for chroma, 16..240 to 0..255: exactly rounded, where libswscale's own conversion is
# half a level off.
_STRETCH_LUMA = np.clip(np.rint((_LIMITED - 16) * 255 / 219), 0, 255).astype(np.uint8)
_STRETCH_CHROMA = np.clip(np.rint((_LIMITED - 128) * 255 / 224 + 128), 0, 255).astype(np.uint8)
_TABLES = [table.tobytes() for table in (_STRETCH_LUMA, _STRETCH_CHROMA, _STRETCH_CHROMA)]


def encode_frame(frame: av.VideoFrame, height: int, width: int, quality: int) -> bytes:
    """A JPEG file of a decoded frame.

    Args:
      frame: as the decoder gave it, of any pixel format.
      height: px of the JPEG.
      width: px of the JPEG.
      quality: 1 to 100.
    """
    if not has_jpeg_planes(frame) or height % 2 or width % 2:
        return pictures.encode_jpeg(pictures.to_rgb(frame, height, width), quality)
    is_full = frame.format.name == "yuvj420p" or frame.color_range == _FULL_RANGE
    resized = pictures.reformat(frame, height, width, frame.format.name)
    planes = []
    for plane, table in zip(resized.planes, _TABLES, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        values = rows[:, : plane.width].tobytes()
        # `translate` is four times as fast as indexing the table with an array.
        values = values if is_full else values.translate(table)
        planes.append(np.frombuffer(values, np.uint8).reshape(plane.height, plane.width))
    return simplejpeg.encode_jpeg_yuv_planes(*planes, quality=quality)


def has_jpeg_planes(frame: av.VideoFrame) -> bool:
    """Whether the frame holds what a JPEG holds: 8 bits, half-sized chroma, BT.601."""
    return frame.format.name in ("yuv420p", "yuvj420p") and int(frame.colorspace) in _BT601
