"""Which clips does an input hold, under which name, class and group?

An input is a folder of videos, a folder of frame folders (one folder of pictures a clip), or a CSV
file with the columns `path,label,group` (the last two optional).

    flat     no labels
    class    <class>/<clip>
    ucf101   <class>/v_<Class>_gNN_cMM; the group is <Class>_gNN
    hmdb51   <class>/<clip>
    kinetics <class>/<clip> or <train|val|test>/<class>/<clip>
    auto     whichever of these the names look like; the choice is logged
"""

import collections
import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterable

from absl import logging

from tce_tf import errors
from tce_tf.data import remote, video_source

LAYOUTS = ("auto", "flat", "class", "ucf101", "hmdb51", "kinetics")
VIDEO_EXTENSIONS = frozenset(
    ".mp4 .avi .mkv .mov .webm .mpg .mpeg .m4v .wmv .flv .3gp .ts .m2ts .ogv .y4m .mjpeg".split()
)
# Folder names of Kinetics' parts, and the subset each belongs to.
SUBSET_FOLDERS = {
    "train": "train",
    "val": "test",
    "validate": "test",
    "validation": "test",
    "test": "test",
}

_UCF101_NAME = re.compile(r"^v_(?P<group>.+_g\d+)_c\d+$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip of an input.

    Attributes:
      name: stable: the path relative to the input without extension, forward slashes.
      path: video file or frame folder, as it can be opened.
      label_text: class name, None = unlabelled.
      group: scene that must not be split over train and test, None = unknown.
    """

    name: str
    path: str
    label_text: str | None = None
    group: str | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """What an input holds.

    Attributes:
      clips: sorted by name.
      rejected: (path, reason) of entries that cannot become a clip.
      layout: the layout used, never `auto`; `csv` for a CSV file.
    """

    clips: list[Clip]
    rejected: list[tuple[str, str]]
    layout: str


def list_clips(path: str, layout: str = "auto") -> Listing:
    """Finds an input's clips.

    Args:
      path: folder, or CSV file.
      layout: one of LAYOUTS; a CSV file carries its own labels and takes only `auto`.

    Raises:
      errors.UserError: no such input, a bad CSV file, or not one clip in it.
    """
    remote.require_local(path, "input", "videos, frame folders or a CSV file")
    if os.path.isfile(path) and path.lower().endswith(".csv"):
        if layout != "auto":
            raise errors.UserError(
                f"--layout={layout} does not go with the CSV file {path}; leave it out"
            )
        listing = _read_csv(path)
    elif os.path.isdir(path):
        listing = _read_folder(path, layout)
    else:
        problem = (
            "is neither a folder nor a .csv file" if os.path.exists(path) else "does not exist"
        )
        raise errors.UserError(f"--input={path} {problem}")
    if not listing.clips and not listing.rejected:
        raise errors.UserError(
            f"{path} holds no videos (.mp4, .avi, .mkv, ...) and no folders of pictures"
        )
    return listing


def stem(name: str) -> str:
    """A path without its video extension; dots that are part of the name stay."""
    root, extension = os.path.splitext(name)
    return root if extension.lower() in VIDEO_EXTENSIONS else name


def _read_folder(root: str, layout: str) -> Listing:
    paths, ignored = _find(root)
    if ignored:
        kinds = ", ".join(
            f"{count} {kind or 'without extension'}" for kind, count in sorted(ignored.items())
        )
        logging.info("%s: ignored files that are neither video nor frame folder: %s", root, kinds)
    clips, rejected, seen = [], [], {}
    for path in sorted(paths, key=lambda path: (stem(path), path)):
        # The root itself may be one frame folder.
        name = (
            stem(path.replace(os.sep, "/"))
            if path != "."
            else os.path.basename(os.path.abspath(root))
        )
        full = os.path.join(root, path) if path != "." else root
        try:
            name.encode()
        except UnicodeEncodeError:
            rejected.append((full, "its name is not valid UTF-8; rename it"))
            continue
        if name in seen:
            rejected.append((full, f"has the same name as {seen[name]}; rename one of them"))
            continue
        seen[name] = full
        clips.append(Clip(name, full))
    if layout == "auto":
        layout = _guess_layout([clip.name for clip in clips])
        logging.info("%s: --layout=auto picked %s", root, layout)
    clips = [_described(clip, layout, root) for clip in clips]
    return Listing(sorted(clips, key=lambda clip: clip.name), rejected, layout)


def _described(clip: Clip, layout: str, root: str) -> Clip:
    """A clip with the class and group that the layout reads from its name."""
    if layout == "flat":
        return clip
    parent, _, base = clip.name.rpartition("/")
    if not parent and layout != "ucf101":
        raise errors.UserError(
            f"{clip.path} lies directly in {root}, but --layout={layout} wants it in a folder "
            "named after its class; use --layout=flat for unlabelled videos"
        )
    label = parent.rpartition("/")[2] or None
    group = None
    if layout == "ucf101" and (match := _UCF101_NAME.match(base)):
        group = match["group"]
        # UCF101's archive unpacks into one folder; the class is then in the file's name.
        label = label or group.rpartition("_")[0]
    return dataclasses.replace(clip, label_text=label, group=group)


def _guess_layout(names: list[str]) -> str:
    parts = [name.split("/") for name in names]
    if sum(bool(_UCF101_NAME.match(p[-1])) for p in parts) * 2 > len(parts):
        return "ucf101"
    if parts and all(len(p) == 3 and p[0].lower() in SUBSET_FOLDERS for p in parts):
        return "kinetics"
    # One folder is no classification: `videos/a.mp4` is a flat input seen from one level above.
    if all(len(p) == 2 for p in parts) and len({p[0] for p in parts}) > 1:
        return "class"
    return "flat"


def _find(root: str) -> tuple[list[str], dict[str, int]]:
    """Relative paths of videos and frame folders; counts of other files by extension."""
    found, ignored = [], collections.Counter()
    visited = set()

    def fail(error: OSError):
        raise errors.UserError(f"cannot read folder {error.filename}: {error.strerror}") from error

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        if real in visited:  # a symbolic link back up, or to a folder already listed
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [name for name in files if not name.startswith(".")]
        kinds = {name: os.path.splitext(name)[1].lower() for name in files}
        videos = [name for name in files if kinds[name] in VIDEO_EXTENSIONS]
        pictures = [name for name in files if kinds[name] in video_source.PICTURE_EXTENSIONS]
        relative = os.path.relpath(folder, root)
        found += [os.path.normpath(os.path.join(relative, name)) for name in videos]
        # Pictures beside videos or subfolders are thumbnails and previews, not a clip.
        is_clip = bool(pictures) and not videos and not subfolders
        if is_clip:
            found.append(relative)
        used = set(videos) | (set(pictures) if is_clip else set())
        ignored.update(kinds[name] for name in files if name not in used)
    return found, ignored


def _read_csv(path: str) -> Listing:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(f"{path} is not a CSV file in UTF-8: {error}") from error
    columns = ["path", "label", "group"]
    if rows and "path" in [cell.strip().lower() for cell in rows[0][1]]:
        columns = [cell.strip().lower() for cell in rows.pop(0)[1]]
    if not rows:
        raise errors.UserError(f"{path} lists no clips: it needs a line path,label for each")
    folder = os.path.dirname(os.path.abspath(path))
    entries, rejected = [], []
    for line, row in rows:
        cells = {key: cell.strip() for key, cell in zip(columns, row, strict=False)}
        if len(row) > len(columns) or not cells.get("path"):
            raise errors.UserError(
                f"{path}, line {line}: expected {','.join(columns)}, got {','.join(row)!r}"
            )
        target = os.path.normpath(os.path.join(folder, cells["path"]))
        # An absolute one too: a list from elsewhere must not have what lies elsewhere read.
        if not _is_below(target, folder):
            raise errors.UserError(
                f"{path}, line {line}: {cells['path']} leads out of {folder}; put the CSV file into "
                "a folder above all its clips"
            )
        entries.append((line, target, cells))
    clips: dict[str, Clip] = {}
    for line, target, cells in entries:
        is_folder = os.path.isdir(target)
        if not is_folder and not os.path.isfile(target):
            rejected.append(
                (target, f"listed in {os.path.basename(path)}, line {line}, but not found")
            )
            continue
        name = stem(os.path.relpath(target, folder).replace(os.sep, "/"))
        if name in clips:
            other = clips[name].path
            what = "listed twice" if other == target else f"same name as {other}"
            rejected.append((target, f"{what} in {os.path.basename(path)}, line {line}"))
            continue
        clips[name] = Clip(name, target, cells.get("label") or None, cells.get("group") or None)
    if _are_numbers(clip.label_text for clip in clips.values()):
        for name, clip in clips.items():  # 07 is 7, as in other programs that read such files
            if clip.label_text is not None:
                clips[name] = dataclasses.replace(clip, label_text=str(int(clip.label_text)))
    return Listing(sorted(clips.values(), key=lambda clip: clip.name), rejected, "csv")


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def class_names(clips: list[Clip], layout: str) -> list[str]:
    """Class names in label order where no class list exists: sorted, never in order of appearance.

    Whole numbers, as Kinetics' CSV files have them, stay what they are: "7" is label 7.

    Raises:
      errors.UserError: numbered labels beyond a million.
    """
    names = {clip.label_text for clip in clips if clip.label_text is not None}
    if layout == "csv" and names and _are_numbers(names):
        highest = max(int(name) for name in names)
        if highest > 10**6:
            raise errors.UserError(f"label {highest} is too large: classes are numbered from 0")
        return [str(label) for label in range(highest + 1)]
    return sorted(names)


def _are_numbers(labels: Iterable[str | None]) -> bool:
    return all(
        label is None or (label.isascii() and label.isdigit() and len(label) < 19)
        for label in labels
    )
