"""Which clips do the official split lists name, for which subset, under which label?

    UCF101  classInd.txt (`1 ApplyEyeMakeup`), trainlist01.txt (`Class/clip.avi 1`), testlist01.txt
    HMDB51  <class>_test_split1.txt (`clip.avi 1`): 1 = train, 2 = test, 0 = unused

Lists and disks disagree in known ways, so names are compared without case and without extension:
UCF101 writes HandstandPushups for the folder and HandStandPushups for the files, lists end in .avi
whatever the files were converted to.
"""

import collections
import dataclasses
import os
import re

from absl import logging

from tce_tf import errors
from tce_tf.data import layouts, remote

SUBSETS = ("train", "test", "all")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a split list: path without extension, class name, subset, and its list file."""

    path: str
    class_name: str
    subset: str
    file: str


@dataclasses.dataclass(frozen=True)
class SplitLists:
    """A folder of split lists.

    Attributes:
      class_names: in label order.
      entries: of the split, in list order; None when the folder holds only a class list.
    """

    class_names: list[str]
    entries: list[Entry] | None


def read_lists(folder: str, split: int = 1) -> SplitLists:
    """Reads a folder's class list and the lists of one split.

    Args:
      folder: holds UCF101's or HMDB51's files, or a `classInd.txt` alone.
      split: 1 to 3.

    Raises:
      errors.UserError: no such folder or lists, or a line that makes no sense; named by number.
    """
    remote.require_local(folder, "split_dir", "a folder of split lists")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise errors.UserError(f"--split_dir={folder}: {error.strerror}") from error
    hmdb51 = [name for name in names if name.endswith(f"_test_split{split}.txt")]
    if hmdb51:
        return _read_hmdb51(folder, hmdb51, f"_test_split{split}.txt")
    classes = (
        _read_classes(os.path.join(folder, "classInd.txt")) if "classInd.txt" in names else None
    )
    lists = [(f"{subset}list{split:02d}.txt", subset) for subset in ("train", "test")]
    present = [name for name, _ in lists if name in names]
    if (
        not present
        and classes
        and not any(re.match(r"(train|test)list\d+\.txt$", n) for n in names)
    ):
        return SplitLists(classes, None)
    if len(present) < 2:
        wanted = " and ".join(name for name, _ in lists)
        raise errors.UserError(
            f"--split_dir={folder} holds neither {wanted} (UCF101) "
            f"nor *_test_split{split}.txt (HMDB51)"
        )
    entries = []
    for name, subset in lists:
        entries += _read_ucf101(os.path.join(folder, name), subset, classes)
    return SplitLists(classes or sorted({entry.class_name for entry in entries}), entries)


def _lines(path: str) -> list[tuple[int, str]]:
    """Non-empty lines with their numbers; Windows line ends and a byte order mark are tolerated."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.UserError(f"{path} is not a text file in UTF-8: {error}") from error


def _read_classes(path: str) -> list[str]:
    classes: dict[int, str] = {}
    for number, line in _lines(path):
        match = re.match(r"^([0-9]{1,7})\s+(\S.*)$", line)
        if not match:
            raise errors.UserError(f"{path}, line {number}: expected `1 ClassName`, got {line!r}")
        label = int(match[1])
        if label in classes or match[2].casefold() in {n.casefold() for n in classes.values()}:
            raise errors.UserError(f"{path}, line {number}: {line!r} repeats a number or a class")
        classes[label] = match[2]
    if sorted(classes) != list(range(1, len(classes) + 1)) or not classes:
        raise errors.UserError(f"{path}: classes must be numbered 1, 2, 3, ... without gaps")
    return [classes[label] for label in sorted(classes)]


def _read_ucf101(path: str, subset: str, classes: list[str] | None) -> list[Entry]:
    known = {name.casefold(): name for name in classes or []}
    entries = []
    for number, line in _lines(path):
        match = re.match(r"^(.*\S)\s+([0-9]{1,7})$", line)
        clip, label = (match[1], int(match[2])) if match else (line, None)
        parts = clip.replace("\\", "/").split("/")
        if len(parts) < 2 or not all(parts):
            raise errors.UserError(
                f"{path}, line {number}: expected `Class/clip.avi`, got {line!r}"
            )
        class_name = known.get(parts[-2].casefold()) if classes else parts[-2]
        if class_name is None:
            raise errors.UserError(
                f"{path}, line {number}: class {parts[-2]!r} is not in classInd.txt"
            )
        if classes and label is not None and classes[label - 1 : label] != [class_name]:
            raise errors.UserError(
                f"{path}, line {number}: label {label} is not {class_name}'s number in classInd.txt"
            )
        entries.append(
            Entry(layouts.stem("/".join(parts)), class_name, subset, os.path.basename(path))
        )
    return entries


def _read_hmdb51(folder: str, names: list[str], ending: str) -> list[Entry]:
    subsets = {"0": "unused", "1": "train", "2": "test"}
    # By class name, not by file: sword_exercise_test_split1.txt sorts before sword_test_split1.txt.
    files = {name.removesuffix(ending): name for name in names}
    class_names = sorted(files)
    entries = []
    for class_name in class_names:
        name = files[class_name]
        path = os.path.join(folder, name)
        for number, line in _lines(path):
            clip, _, code = line.rpartition(" ")
            if not clip.strip() or code not in subsets:
                raise errors.UserError(
                    f"{path}, line {number}: expected `clip.avi 0|1|2`, got {line!r}"
                )
            entry_path = f"{class_name}/{layouts.stem(clip.strip())}"
            entries.append(Entry(entry_path, class_name, subsets[code], name))
    return SplitLists(class_names, entries)


def select(
    listing: layouts.Listing, lists: SplitLists, subset: str
) -> tuple[list[layouts.Clip], list[tuple[str, str]]]:
    """The listed clips of a subset, with the lists' labels.

    Args:
      listing: what is on the disk.
      lists: what the lists say; must have entries.
      subset: `train`, `test`, or `all` (HMDB51's unused ones included).

    Returns:
      Clips sorted by name, and (path, reason) of listed clips that are missing or listed twice.

    Raises:
      errors.UserError: a listed clip is on the disk twice, or in both subsets.
    """
    finder = _Finder(listing.clips)
    subsets = collections.defaultdict(set)
    for entry in lists.entries:
        subsets[entry.path.casefold()].add(entry.subset)
        if {"train", "test"} <= subsets[entry.path.casefold()]:
            raise errors.UserError(
                f"{entry.path}, in {entry.file}, is listed for training and for testing: correct "
                "the lists in --split_dir"
            )
    chosen: dict[str, layouts.Clip] = {}
    rejected = []
    for entry in lists.entries:
        if subset not in ("all", entry.subset):
            continue
        clip = finder.find(entry)
        if clip is None:
            rejected.append((entry.path, f"listed in {entry.file} but not found"))
        elif clip.name in chosen:
            rejected.append((entry.path, f"listed twice, the second time in {entry.file}"))
        else:
            chosen[clip.name] = dataclasses.replace(clip, label_text=entry.class_name)
    logging.info(
        "split lists: %d clips chosen for %s, %d others on the disk, %d lines without a clip",
        len(chosen), subset, len(listing.clips) - len(chosen), len(rejected),
    )  # fmt: skip
    return sorted(chosen.values(), key=lambda clip: clip.name), rejected


class _Finder:
    """Clips by name, without case: the whole path, else class and clip, else the clip alone."""

    def __init__(self, clips: list[layouts.Clip]):
        self._by_depth: list[dict[str, list[layouts.Clip]]] = []
        for depth in (0, 2, 1):  # path components compared, 0 = all
            table = collections.defaultdict(list)
            for clip in clips:
                table[_key(clip.name, depth)].append(clip)
            self._by_depth.append(table)

    def find(self, entry: Entry) -> layouts.Clip | None:
        for table, depth in zip(self._by_depth, (0, 2, 1), strict=True):
            found = table.get(_key(entry.path, depth), [])
            if depth == 1:
                # A clip without class folders; one in another class's folder is not the one meant.
                found = [clip for clip in found if "/" not in clip.name]
            if len(found) > 1:
                raise errors.UserError(
                    f"{entry.path}, listed in {entry.file}, is on the disk twice: {found[0].path} "
                    f"and {found[1].path}; name the folder of the one you mean as --input"
                )
            if found:
                return found[0]
        return None


def _key(path: str, depth: int) -> str:
    return "/".join(path.casefold().split("/")[-depth:])
