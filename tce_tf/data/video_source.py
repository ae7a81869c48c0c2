"""Which frames does a video file or a frame folder hold, and when is each shown?

Nothing is resized or encoded here: `video.py` does that.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import av

from tce_tf.data import pictures
from tce_tf.data.pictures import VideoError

FRAME_FOLDER_FPS = 25.0  # pictures carry no time; 25 is UCF101's rate
PICTURE_EXTENSIONS = frozenset(".jpg .jpeg .png .bmp .webp .tif .tiff .ppm .pgm .gif".split())

# Formats whose files name others: a video from anywhere must not have a private one read instead.
_PLAYLISTS = frozenset("concat dash hls image2 imf lavfi rtsp sdp webm_dash_manifest".split())
# With `file:` before the path, neither a file's name nor its content opens anything but it.
_CONTAINER_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - _PLAYLISTS)),
}
# Checked by the decoders themselves, so that a picture which claims more than its container does
# (or than the first picture) takes no memory either.
_CODEC_OPTIONS = {"max_pixels": str(pictures.MAX_SOURCE_PIXELS)}

# Of a damaged file; the second is PyAV's, at a stream that the header does not announce.
DEMUX_ERRORS = (av.error.FFmpegError, IndexError)

av.logging.set_level(None)  # damage is reported by us, once a video, with its name


class Source:
    """A video file or a frame folder, read once from front to back.

    Attributes:
      frame_rate: Hz as the header says it, 0 when it does not.
      truncated: set when damage was met; final once `frames` has ended.
    """

    def __init__(self, path: str, start_us: int = 0, end_us: int | None = None):
        """Opens nothing yet.

        Args:
          path: video file, or folder of pictures.
          start_us: first time wanted, microseconds from the start of the source.
          end_us: time to stop before, None = the end.
        """
        self.path = path
        self.frame_rate = 0.0
        self.truncated = False
        self._start_us, self._end_us = start_us, end_us
        self._fault = ""

    def frames(self) -> Iterator[tuple[int, "av.VideoFrame | str"]]:
        """Yields (time stamp in microseconds, decoded frame or picture path) in display order.

        Raises:
          VideoError: the source cannot be opened or has no video.
        """
        timed = self._pictures() if os.path.isdir(self.path) else self._decoded()
        for timestamp, frame in timed:
            if self._end_us is not None and timestamp >= self._end_us:
                return
            if timestamp >= self._start_us:
                yield timestamp, frame

    def damaged(self, fault: str) -> None:
        """Notes damage; the first one is named if no frame is left in the end."""
        self.truncated = True
        self._fault = self._fault or fault

    @property
    def fault(self) -> str:
        """Why no frame could be read."""
        return self._fault or "it has no frames"

    def _pictures(self) -> Iterator[tuple[int, str]]:
        self.frame_rate = FRAME_FOLDER_FPS
        for number, name in enumerate(list_pictures(self.path)):
            yield round(number * 1e6 / FRAME_FOLDER_FPS), os.path.join(self.path, name)

    def _decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        with contextlib.ExitStack() as opened:
            container = opened.enter_context(open_video(self.path))
            stream = video_stream(container)
            if self._start_us and not self._seek(container, stream):
                # Anew: not every file that cannot be sought in can be wound back.
                container = opened.enter_context(open_video(self.path))
                stream = video_stream(container)
            self.frame_rate = float(stream.average_rate or stream.guessed_rate or 0)
            cut = bool(self._start_us) or self._end_us is not None
            times = _Times(container, stream, self.frame_rate, cut)
            count = 0
            try:
                for frame in self._clean_frames(container, stream):
                    count += 1
                    yield times.of(frame), frame
            except DEMUX_ERRORS as error:
                self.damaged(getattr(error, "strerror", "a stream its header does not announce"))
            # Headers miscount by a frame or two (B-frames, edit lists); a missing tail is more.
            if not cut and count < stream.frames * 0.98 - 2:
                self.damaged(f"{count} of the {stream.frames} frames its header announces")

    def _seek(self, container, stream) -> bool:
        """Goes to the key frame before `start_us`; False when the file cannot be trusted to."""
        if stream.start_time is None:
            return False
        target = stream.start_time + int(self._start_us / 1e6 / stream.time_base)
        try:
            container.seek(target, stream=stream, backward=True)
            first = next((p for p in container.demux(stream) if p.pts is not None), None)
            if first is None or first.pts > target or not first.is_keyframe:
                return False
            container.seek(target, stream=stream, backward=True)
            return True
        except DEMUX_ERRORS:
            return False  # not seekable: reading from the front gives the same frames, later

    def _clean_frames(self, container, stream) -> Iterator[av.VideoFrame]:
        """Decoded frames, packet by packet; what depends on a damaged packet is left out.

        After damage a decoder conceals: it fills in from what it has and smears until the next key
        frame. Such frames are dropped, the ones from the next key frame on are kept.
        """
        smeared = False
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError as error:
                # The file ends within its own structure; the decoder still holds good frames.
                self.damaged(error.strerror)
                packet = None
            try:
                decoded = stream.codec_context.decode(packet)
            except av.error.InvalidDataError as error:
                self.damaged(error.strerror)
                smeared, decoded = True, []
            except av.error.ArgumentError:  # what `max_pixels` gives, among others
                self.damaged(
                    f"a frame is damaged, or more than the {pictures.MAX_SOURCE_PIXELS} px this "
                    "program decodes"
                )
                smeared, decoded = True, []
            for frame in decoded:
                smeared = (smeared and not frame.key_frame) or frame.is_corrupt
                if not smeared:
                    yield frame
                else:
                    self.damaged("damaged frames")
            if packet is None or not packet.size:
                return


class _Times:
    """Presentation times from a stream's own stamps: microseconds, strictly increasing."""

    def __init__(self, container, stream, frame_rate: float, cut: bool):
        # AVI has no presentation stamps: what shows up as such is in decoding order (UCF101's
        # original files: 1, 2, 4, 3, 5, 7, 6). The decoder's own order is the true one there.
        self._use_dts = "avi" in container.format.name
        self._base = float(stream.time_base or 0) * 1e6
        # A cut-out part needs the stream's own start, which every part of it agrees on.
        self._origin = stream.start_time if cut else None
        self._interval_us = max(1, round(1e6 / frame_rate)) if frame_rate > 0 else 40_000
        self._last_pts = self._last_dts = None
        self._faulty_pts = self._faulty_dts = 0
        self._last_us = None

    def of(self, frame: av.VideoFrame) -> int:
        """The frame's time; missing and backward stamps become the last one + one frame."""
        stamp = self._best_stamp(frame)
        if stamp is not None and self._origin is None:
            self._origin = stamp
        last = self._last_us
        time_us = None if stamp is None else round((stamp - self._origin) * self._base)
        if time_us is None or (last is not None and time_us <= last):
            time_us = 0 if last is None else last + self._interval_us
        self._last_us = max(time_us, 0) if last is None else time_us
        return self._last_us

    def _best_stamp(self, frame: av.VideoFrame) -> int | None:
        """Presentation stamps, unless they went wrong more often than others (ffmpeg's rule)."""
        pts, dts = frame.pts, frame.dts
        if self._use_dts and dts is not None:
            return dts
        if dts is not None:
            self._faulty_dts += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._faulty_pts += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        return (
            pts
            if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts)
            else dts
        )


def open_video(path: str):
    """Opens a video file and nothing else.

    Raises:
      VideoError: missing, empty, unreadable or no video file.
    """
    if not os.path.isfile(path):  # opening a pipe would wait for its other end for ever
        raise VideoError(
            "it is no regular file" if os.path.exists(path) else "there is no such file"
        )
    try:
        return av.open(
            f"file:{path}",
            options=_CODEC_OPTIONS,
            container_options=_CONTAINER_OPTIONS,
            metadata_errors="replace",  # titles are in any encoding, and nobody reads them here
        )
    except av.error.FFmpegError as error:
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        reason = "the file is empty" if empty else f"no readable video file ({error.strerror})"
        raise VideoError(reason) from error


def video_stream(container):
    """The first real video stream, set to decode on one thread.

    One thread: videos are decoded in parallel already, and which frames a damaged file gives must
    not depend on the machine.

    Raises:
      VideoError: no video stream, an unknown codec, or a size that is refused.
    """
    attached = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & attached]
    if not streams:
        raise VideoError("it has no video stream")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise VideoError("its video codec is not supported")
    if context.width and context.height:
        pictures.check_pixels(context.height, context.width)
    stream.thread_type = "NONE"
    context.thread_count = 1
    context.options = _CODEC_OPTIONS
    return stream


def natural_key(name: str) -> list:
    """Sort key by which `frame2.jpg` comes before `frame10.jpg`."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), part) if i % 2 else (0, part) for i, part in enumerate(parts)]


def list_pictures(folder: str) -> list[str]:
    """The picture files directly in a folder, in natural order of their names."""
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path))
            and not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in PICTURE_EXTENSIONS
        ]
    return sorted(names, key=natural_key)
