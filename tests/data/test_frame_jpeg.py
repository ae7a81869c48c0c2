"""A frame stored from its planes looks like the same frame by way of RGB, whatever the video says."""

import av
import numpy as np
import pytest
import simplejpeg
from av.video.reformatter import ColorRange, Colorspace

from tce_tf.data import frame_jpeg, pictures


def _frame(pixel_format="yuv420p", *, size=(240, 320), colorspace=None, color_range=None):
    """Smooth colours over the whole range of RGB, as a decoder would hand them over."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / np.array(size)[:, None, None]
    rgb = np.stack([x, y, 0.5 + 0.5 * np.sin(6 * (x - y))], axis=-1)
    image = np.rint(255 * rgb).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
        format=pixel_format,
        dst_colorspace=colorspace or Colorspace.ITU601,
        dst_color_range=color_range or ColorRange.MPEG,
    )
    if color_range is not None:
        frame.color_range = color_range
    if colorspace is not None:
        frame.colorspace = colorspace
    return frame


FRAMES = {
    "untagged": _frame(),
    "limited": _frame(color_range=ColorRange.MPEG),
    "full": _frame(color_range=ColorRange.JPEG),
    "yuvj": _frame("yuvj420p", color_range=ColorRange.JPEG),
    "bt601": _frame(colorspace=Colorspace.ITU601),
    "bt709": _frame(colorspace=Colorspace.ITU709),
    "yuv422": _frame("yuv422p"),
    "ten bits": _frame("yuv420p10le"),
    "odd": _frame(size=(241, 321)),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("size", [(240, 320), (256, 342), (128, 170), (96, 129)])
def test_planes_and_rgb_agree(kind, size):
    frame = FRAMES[kind]
    wanted = pictures.to_rgb(frame, *size).astype(int)
    stored = simplejpeg.decode_jpeg(frame_jpeg.encode_frame(frame, *size, 95)).astype(int)
    by_rgb = simplejpeg.decode_jpeg(pictures.encode_jpeg(wanted.astype(np.uint8), 95)).astype(int)
    assert stored.shape == wanted.shape
    # As near to the picture as the way through RGB, up to what chroma siting moves; and no cast.
    assert np.abs(stored - wanted).mean() < np.abs(by_rgb - wanted).mean() + 0.5
    assert np.abs((stored - wanted).mean((0, 1))).max() < 0.35


def test_the_fast_way_is_taken_for_common_video_only():
    fast = {kind for kind, frame in FRAMES.items() if frame_jpeg.has_jpeg_planes(frame)}
    assert fast == set(FRAMES) - {"bt709", "yuv422", "ten bits"}


def test_grey_stays_grey_and_the_range_is_used_up():
    for level, expected in ((16, 0), (126, 128), (235, 255)):
        frame = av.VideoFrame(32, 16, "yuv420p")
        for plane, value in zip(frame.planes, (level, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        jpeg = frame_jpeg.encode_frame(frame, 16, 32, 100)
        assert np.unique(simplejpeg.decode_jpeg(jpeg)).tolist() == [expected]
