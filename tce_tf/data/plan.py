"""Which clip goes into which shard, under which number and label? Decided before decoding.

The plan depends on the input and the flags alone, so every shard can be made by itself, anywhere,
in any order, and a second run makes the same files.
"""

import dataclasses
import math
import os

from absl import logging

from tce_tf import errors
from tce_tf.data import layouts, pictures, splits, video, workers

TARGET_SHARD_BYTES = 256 * 2**20
_BYTES_PER_PIXEL = 0.3  # measured at quality 90; only the number of shards depends on it
_PROBE_SECONDS = 60  # to read one header
_SAMPLE = 64  # headers read to estimate the size of all


@dataclasses.dataclass(frozen=True)
class Options:
    """What decides the shards' bytes; each is a flag of make_tfrecords.

    Attributes:
      input: folder of videos or frame folders, or CSV file.
      output: shard folder, local or remote.
      layout: one of `layouts.LAYOUTS`.
      split_dir: folder of split lists or of a class list alone, None = none.
      split: 1 to 3.
      subset: `train`, `test` or `all`.
      short_side: px, 0 = keep every video's size; see `pictures.Sizing`.
      size: (height, width) px instead, None = by `short_side`.
      fps: frames kept a second at most, 0 = all.
      jpeg_quality: 1 to 100.
      num_shards: 0 = by size, some 256 MB each.
      clip_seconds: cut footage into clips of about this length, 0 = do not cut.
    """

    input: str
    output: str
    layout: str = "auto"
    split_dir: str | None = None
    split: int = 1
    subset: str = "all"
    short_side: int = 256
    size: tuple[int, int] | None = None
    fps: float = 0.0
    jpeg_quality: int = 90
    num_shards: int = 0
    clip_seconds: float = 0.0

    def arguments(self) -> dict:
        """What the manifest keeps: everything but the output's place."""
        kept = dataclasses.asdict(self)
        del kept["output"]
        return kept | {"size": "x".join(map(str, self.size)) if self.size else None}

    @property
    def encoding(self) -> video.EncodeOptions:
        """How frames are stored."""
        sizing = pictures.Sizing(self.short_side, self.size)
        return video.EncodeOptions(sizing, self.fps, self.jpeg_quality)


@dataclasses.dataclass(frozen=True)
class PlannedClip:
    """One row to be.

    Attributes:
      video_index: position in the plan = memory bank row.
      name: stable name; `name#0003` for a piece of longer footage.
      path: of the source, as it can be opened.
      filename: of the source, relative to the input, with its extension (`video/filename`).
      label: class number, None = unlabelled.
      label_text: class name, None = unlabelled.
      group: scene, None = unknown.
      start_us: first time wanted, microseconds from the start of the source.
      end_us: time to stop before, None = the end.
    """

    video_index: int
    name: str
    path: str
    filename: str
    label: int | None
    label_text: str | None
    group: str | None
    start_us: int = 0
    end_us: int | None = None


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard to be: all that making it needs, so that it can be made on any machine.

    Attributes:
      number: 0 <= number < the plan's `num_shards`.
      file: its file name.
      clips: in order of `video_index`.
      output: the shard folder, local or remote.
      encoding: how frames are stored.
    """

    number: int
    file: str
    clips: list[PlannedClip]
    output: str
    encoding: video.EncodeOptions


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run makes.

    Attributes:
      options: what it was made from.
      layout: the layout used.
      class_names: in label order.
      clips: in order of `video_index`.
      rejected: (path, reason) of entries that cannot become a clip.
      num_shards: at least 1.
    """

    options: Options
    layout: str
    class_names: list[str]
    clips: list[PlannedClip]
    rejected: list[tuple[str, str]]
    num_shards: int

    def shard(self, number: int) -> Shard:
        """A shard's part: contiguous blocks of clips, sizes differing by one at most."""
        stem = {"all": "videos"}.get(self.options.subset, self.options.subset)
        total, count = len(self.clips), self.num_shards
        return Shard(
            number=number,
            file=f"{stem}-{number:05d}-of-{count:05d}.tfrecord",
            clips=self.clips[number * total // count : (number + 1) * total // count],
            output=self.options.output,
            encoding=self.options.encoding,
        )

    def shards(self) -> list[Shard]:
        """All of them, in order."""
        return [self.shard(number) for number in range(self.num_shards)]


def make_plan(options: Options, pool: workers.DecodePool, num_shards: int | None = None) -> Plan:
    """Lists the input, joins it with the split lists, cuts and numbers it.

    Args:
      options: the flags.
      pool: reads headers, where lengths are needed.
      num_shards: of an earlier run that is being finished; None = by the flags.

    Raises:
      errors.UserError: nothing to do, or something in the input contradicts itself.
    """
    listing = layouts.list_clips(options.input, options.layout)
    lists = splits.read_lists(options.split_dir, options.split) if options.split_dir else None
    clips, missing = _choose(listing, lists, options)
    class_names = lists.class_names if lists else layouts.class_names(clips, listing.layout)
    for name in class_names:
        if name.splitlines() != [name]:  # exports list them one a line
            raise errors.UserError(f"class {name!r}: a class name is one line; rename it")
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    exact = {name: label for label, name in enumerate(class_names)}
    planned: list[PlannedClip] = []
    pieces = _pieces(clips, options.clip_seconds, pool)
    for clip, cuts in zip(clips, pieces, strict=True):
        text, label = clip.label_text, None
        if text is not None:
            label = exact.get(text, labels.get(text.casefold()))
            if label is None:
                raise errors.UserError(
                    f"{clip.path}: class {text!r} is none of the classes in "
                    f"--split_dir={options.split_dir}"
                )
            text = class_names[label]
        extension = os.path.splitext(clip.path)[1]
        is_video = extension.lower() in layouts.VIDEO_EXTENSIONS
        filename = clip.name + extension if is_video else clip.name
        for number, (start_us, end_us) in enumerate(cuts):
            name = f"{clip.name}#{number:04d}" if options.clip_seconds else clip.name
            # Pieces of one recording share its scene, whatever else is known.
            group = clip.group or (clip.name if options.clip_seconds else None)
            planned.append(
                PlannedClip(
                    video_index=len(planned),
                    name=name,
                    path=clip.path,
                    filename=filename,
                    label=label,
                    label_text=text,
                    group=group,
                    start_us=start_us,
                    end_us=end_us,
                )
            )
    num_shards = num_shards or options.num_shards or _shards_by_size(clips, options, pool)
    return Plan(
        options=options,
        layout=listing.layout,
        class_names=class_names,
        clips=planned,
        rejected=listing.rejected + missing,
        num_shards=max(1, min(num_shards, len(planned))),
    )


def _choose(listing: layouts.Listing, lists: splits.SplitLists | None, options: Options):
    """The subset's clips and the listed ones that are missing."""
    if lists is not None and lists.entries is not None:
        return splits.select(listing, lists, options.subset)
    if options.subset == "all":
        return listing.clips, []
    # Kinetics unpacks into train/<class> and val/<class>: the folder is the split list.
    chosen = [
        clip
        for clip in listing.clips
        if layouts.SUBSET_FOLDERS.get(clip.name.split("/")[0].lower()) == options.subset
    ]
    if listing.layout != "kinetics" or not chosen:
        raise errors.UserError(
            f"--subset={options.subset} needs the split lists in --split_dir (or a kinetics "
            "layout with train/ and val/ folders)"
        )
    return chosen, []


def _pieces(
    clips: list[layouts.Clip], clip_seconds: float, pool: workers.DecodePool
) -> list[list[tuple[int, int | None]]]:
    """(start, end) in microseconds of each clip's pieces; the last piece runs to the end.

    A rest shorter than half a piece joins the one before it, so that no row is a sliver.
    """
    if not clip_seconds:
        return [[(0, None)]] * len(clips)
    pieces = []
    for found in _probe_all(clips, pool):
        seconds = found.seconds if found else 0.0  # what is wrong with it is said when decoding
        # A header may claim any length: there are no more pieces than frames.
        most = found.num_frames if found else 1
        count = max(1, min(math.floor(seconds / clip_seconds + 0.5), most))
        starts = [round(number * clip_seconds * 1e6) for number in range(count)]
        pieces.append(list(zip(starts, [*starts[1:], None], strict=True)))
    return pieces


def _probe_all(clips: list[layouts.Clip], pool: workers.DecodePool) -> list[video.Probe | None]:
    futures = [
        pool.submit(video.probe, clip.path, timeout_seconds=_PROBE_SECONDS) for clip in clips
    ]
    found = []
    for future in futures:
        try:
            found.append(pool.result(future))
        except pictures.VideoError:
            found.append(None)
    return found


def _shards_by_size(clips: list[layouts.Clip], options: Options, pool: workers.DecodePool) -> int:
    """How many shards of some 256 MB: an estimate from evenly chosen headers."""
    step = max(1, math.ceil(len(clips) / _SAMPLE))
    estimates = []
    for found in filter(None, _probe_all(clips[::step], pool)):
        frames = found.num_frames
        if options.fps:
            frames = min(frames, math.ceil(found.seconds * options.fps))
        try:
            height, width = options.encoding.sizing.target(found.height, found.width)
        except (pictures.VideoError, ZeroDivisionError):
            continue
        estimates.append(frames * height * width * _BYTES_PER_PIXEL)
    total = sum(estimates) / max(1, len(estimates)) * len(clips)
    logging.info("estimated size: %.1f MB", total / 1e6)
    return math.ceil(total / TARGET_SHARD_BYTES)
