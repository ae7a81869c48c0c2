"""What is a video's stored form: which frames, at which size, as which JPEG files?

    for timestamp_us, image in video.iterate_frames("clip.mp4"): ...
    clip = video.encode_clip("clip.mp4", video.EncodeOptions())

No TensorFlow here: the decoding worker processes import this file and start in a fraction of a
second.
"""

import dataclasses
import os
from collections.abc import Iterator

import av
import numpy as np
from absl import logging

from tce_tf.data import frame_jpeg, pictures, video_source
from tce_tf.data.pictures import Sizing, VideoError
from tce_tf.data.video_source import Source


@dataclasses.dataclass(frozen=True)
class EncodeOptions:
    """How frames are stored.

    Attributes:
      sizing: the stored size.
      fps: frames kept a second at most, 0 = all; frames are left out, never repeated.
      jpeg_quality: 1 to 100.
      max_bytes: more JPEG bytes than this are refused.
    """

    sizing: Sizing = Sizing()
    fps: float = 0.0
    jpeg_quality: int = 90
    max_bytes: int = 2**30


@dataclasses.dataclass
class EncodedClip:
    """A clip ready to be stored.

    Attributes:
      jpegs: T JPEG files.
      timestamps: int64 [T], microseconds from the start of the source, strictly increasing.
      height: px, of every frame.
      width: px, of every frame.
      frame_rate: Hz, after `fps`.
      truncated: a part of the source could not be decoded.
    """

    jpegs: list[bytes]
    timestamps: np.ndarray
    height: int
    width: int
    frame_rate: float
    truncated: bool


def _spaced(frames: Iterator, fps: float) -> Iterator:
    """Leaves frames out so that at most `fps` a second remain: one a slot of 1/fps seconds."""
    last_slot = None
    for timestamp, frame in frames:
        # A tenth of a slot is forgiven: containers round times (Matroska to milliseconds), and at
        # fps = the source's own rate every frame must stay.
        slot = int(timestamp * fps / 1e6 + 0.1)
        if slot != last_slot:
            last_slot = slot
            yield timestamp, frame


def _sized(source: Source, sizing: Sizing, fps: float) -> Iterator[tuple[int, object, tuple, int]]:
    """Yields (timestamp, frame or path, stored (height, width), rotation in degrees)."""
    frames = source.frames()
    target = None  # the first frame's: every frame of a video is stored at one size
    for timestamp, frame in _spaced(frames, fps) if fps else frames:
        if isinstance(frame, str):
            rotation = 0
            if target is None:
                try:
                    target = sizing.target(*pictures.picture_size(frame))
                except VideoError as error:
                    source.damaged(str(error))
                    continue
        else:
            # Phones store the sensor's picture and how to turn it; only right angles exist.
            rotation = round(frame.rotation / 90) * 90 % 360
            if target is None:
                pictures.check_pixels(frame.height, frame.width)
                sides = (frame.height, frame.width)
                target = sizing.target(*(sides[::-1] if rotation % 180 else sides))
        yield timestamp, frame, target, rotation


def _reason(error: Exception) -> str:
    """What is wrong with a frame; libswscale refuses colour spaces that do not exist."""
    return str(error) if isinstance(error, VideoError) else error.strerror


def _to_image(frame: av.VideoFrame, target: tuple[int, int], rotation: int) -> np.ndarray:
    if not rotation:
        return pictures.to_rgb(frame, *target)
    # Resized first, turned after: fewer pixels to turn.
    sides = target[::-1] if rotation % 180 else target
    return np.rot90(pictures.to_rgb(frame, *sides), rotation // 90)


def iterate_frames(
    path: str, sizing: Sizing | None = None, fps: float = 0.0, start_us: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a video file or frame folder, in constant memory. Damaged ones are left out.

    A warning names the first damage.

    Args:
      path: video file, or folder of pictures.
      sizing: the size wanted; None = as they are (all like the first).
      fps: frames kept a second at most, 0 = all.
      start_us: first time wanted, in microseconds from the start.

    Yields:
      Time stamp in microseconds from the start, and uint8 [H, W, 3] RGB, rotation applied.

    Raises:
      VideoError: not one frame can be read; the message is the reason, without the path.
    """
    source, count = Source(path, start_us), 0
    for timestamp, frame, target, rotation in _sized(source, sizing or Sizing(0), fps):
        try:
            if isinstance(frame, str):
                image = pictures.resize(pictures.load_picture(frame), *target)
            else:
                image = _to_image(frame, target, rotation)
        except (VideoError, av.error.FFmpegError) as error:
            source.damaged(_reason(error))
            continue
        count += 1
        yield timestamp, np.ascontiguousarray(image)
    if not count:
        raise VideoError(source.fault)
    if source.truncated:
        logging.warning("%s: read in part: %s", path, source.fault)


def encode_clip(
    path: str, options: EncodeOptions, start_us: int = 0, end_us: int | None = None
) -> EncodedClip:
    """A clip's frames as JPEG files. Memory: the JPEGs and one frame.

    Args:
      path: video file, or folder of pictures.
      options: size, rate and quality.
      start_us: first time wanted, microseconds from the start of the source.
      end_us: time to stop before, None = the end.

    Raises:
      VideoError: not one frame can be read, or the clip is too large; the message is the reason.
    """
    source = Source(path, start_us, end_us)
    jpegs, timestamps, total, target = [], [], 0, (0, 0)
    sized = _sized(source, options.sizing, options.fps)
    for timestamp, frame, target, rotation in sized:  # noqa: B007
        try:
            if isinstance(frame, str):
                jpeg = pictures.stored_jpeg(frame, target, options.jpeg_quality)
            elif rotation:
                image = _to_image(frame, target, rotation)
                jpeg = pictures.encode_jpeg(image, options.jpeg_quality)
            else:
                jpeg = frame_jpeg.encode_frame(frame, *target, options.jpeg_quality)
        except (VideoError, av.error.FFmpegError) as error:
            source.damaged(_reason(error))
            continue
        total += len(jpeg)
        if total > options.max_bytes:
            raise VideoError(
                f"its record would be over {options.max_bytes / 2**30:g} GiB; "
                "cut it with --clip_seconds"
            )
        jpegs.append(jpeg)
        timestamps.append(timestamp)
    if not jpegs:
        raise VideoError(source.fault)
    times = np.array(timestamps, np.int64)
    rate = source.frame_rate
    if not 0 < rate < 1e5:  # no rate in the header: from the times themselves
        rate = (
            1e6 / float(np.median(np.diff(times)))
            if len(times) > 1
            else video_source.FRAME_FOLDER_FPS
        )
    if options.fps:
        rate = min(rate, options.fps)
    return EncodedClip(jpegs, times, *target, rate, source.truncated)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a header says, decoding nothing: `probe`."""

    seconds: float
    num_frames: int
    height: int
    width: int


def probe(path: str) -> Probe:
    """Length and size of a video file or frame folder; without a length in the header it is read.

    Raises:
      VideoError: not readable.
    """
    if os.path.isdir(path):
        names = video_source.list_pictures(path)
        if not names:
            raise VideoError("it has no pictures")
        height, width = pictures.picture_size(os.path.join(path, names[0]))
        return Probe(len(names) / video_source.FRAME_FOLDER_FPS, len(names), height, width)
    with video_source.open_video(path) as container:
        stream = video_source.video_stream(container)
        rate = float(stream.average_rate or stream.guessed_rate or video_source.FRAME_FOLDER_FPS)
        context = stream.codec_context
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / av.time_base
        else:
            try:
                seconds = sum(1 for packet in container.demux(stream) if packet.size) / rate
            except video_source.DEMUX_ERRORS:
                seconds = 0.0  # what can be read is found out when it is decoded
        # What a header claims is no more than its file can hold: a byte a frame, and a second.
        most = os.path.getsize(path)
        seconds = min(max(seconds, 0.0), most)
        frames = min(max(stream.frames, 0) or round(seconds * rate), most)
        return Probe(seconds, frames, context.height or 0, context.width or 0)
