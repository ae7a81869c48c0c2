"""Names, classes and groups that layouts read from an input."""

import csv
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tce_tf import errors
from tce_tf.data import layouts, video_source


def _touch(root, *paths):
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x")


def _rows(listing):
    return [(clip.name, clip.label_text, clip.group) for clip in listing.clips]


def test_auto_ucf101(tmp_path):
    _touch(tmp_path, "Punch/v_Punch_g01_c02.avi", "Archery/v_Archery_g11_c01.mp4", "readme.txt")
    listing = layouts.list_clips(str(tmp_path))
    assert listing.layout == "ucf101"
    assert _rows(listing) == [
        ("Archery/v_Archery_g11_c01", "Archery", "Archery_g11"),
        ("Punch/v_Punch_g01_c02", "Punch", "Punch_g01"),
    ]


@pytest.mark.parametrize(
    ("paths", "layout", "labels"),
    [
        (["b/x.mp4", "a/y.mp4"], "class", ["a", "b"]),
        (["only/x.mp4", "only/y.mp4"], "flat", [None, None]),
        (["x.mp4", "a/y.mp4"], "flat", [None, None]),
        (["train/b/x.mp4", "val/a/y.mp4"], "kinetics", ["b", "a"]),
    ],
)
def test_auto_picks(tmp_path, paths, layout, labels):
    _touch(tmp_path, *paths)
    listing = layouts.list_clips(str(tmp_path))
    assert (listing.layout, [clip.label_text for clip in listing.clips]) == (layout, labels)


def test_flat_files_of_ucf101_take_the_class_from_their_name(tmp_path):
    _touch(tmp_path, "v_HandStandPushups_g01_c01.avi")
    (clip,) = layouts.list_clips(str(tmp_path)).clips
    assert (clip.label_text, clip.group) == ("HandStandPushups", "HandStandPushups_g01")


def test_frame_folders_sort_by_number(tmp_path):
    _touch(tmp_path, *[f"a/clip.one/frame{n}.jpg" for n in (1, 2, 10)], "b/two/0001.png")
    listing = layouts.list_clips(str(tmp_path))
    assert [clip.name for clip in listing.clips] == ["a/clip.one", "b/two"]
    names = video_source.list_pictures(listing.clips[0].path)
    assert names == ["frame1.jpg", "frame2.jpg", "frame10.jpg"]


def test_root_that_is_itself_a_frame_folder(tmp_path):
    _touch(tmp_path, "clip/1.jpg", "clip/2.jpg")
    (clip,) = layouts.list_clips(str(tmp_path / "clip")).clips
    assert clip.name == "clip" and len(video_source.list_pictures(clip.path)) == 2


def test_pictures_beside_videos_are_no_clip(tmp_path):
    _touch(tmp_path, "a/x.mp4", "a/thumbnail.jpg", "b/y.mp4")
    assert [c.name for c in layouts.list_clips(str(tmp_path)).clips] == ["a/x", "b/y"]


def test_same_name_twice_is_rejected_with_the_other_named(tmp_path):
    _touch(tmp_path, "x.avi", "x.mp4")
    listing = layouts.list_clips(str(tmp_path))
    assert [os.path.basename(clip.path) for clip in listing.clips] == ["x.avi"]
    ((path, reason),) = listing.rejected
    assert path.endswith("x.mp4") and "x.avi" in reason


def test_name_that_is_no_utf8_is_rejected(tmp_path):
    _touch(tmp_path, "good.mp4")
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.mp4"), "wb") as file:
        file.write(b"x")
    listing = layouts.list_clips(str(tmp_path))
    assert [clip.name for clip in listing.clips] == ["good"]
    assert "UTF-8" in listing.rejected[0][1]


def test_link_back_up_ends(tmp_path):
    _touch(tmp_path, "a/x.mp4")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [clip.name for clip in layouts.list_clips(str(tmp_path)).clips] == ["a/x"]


def test_class_layout_refuses_a_video_without_folder(tmp_path):
    _touch(tmp_path, "x.mp4")
    with pytest.raises(errors.UserError, match=r"x\.mp4 lies directly in"):
        layouts.list_clips(str(tmp_path), "class")


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_no_input(tmp_path, make):
    make(tmp_path / "input")
    with pytest.raises(errors.UserError, match="input"):
        layouts.list_clips(str(tmp_path / "input"))


def test_csv_with_header_groups_and_windows_line_ends(tmp_path):
    _touch(tmp_path, "v/a.mp4", "v/b.mp4", "c.mp4")
    text = "\ufeffgroup,path,label\r\ns1,v/a.mp4,run\r\n,v/b.mp4,walk\r\n,c.mp4,\r\n"
    (tmp_path / "list.csv").write_bytes(text.encode())
    listing = layouts.list_clips(str(tmp_path / "list.csv"))
    assert _rows(listing) == [("c", None, None), ("v/a", "run", "s1"), ("v/b", "walk", None)]
    assert layouts.class_names(listing.clips, "csv") == ["run", "walk"]


def test_csv_missing_and_double_rows_are_rejected(tmp_path):
    _touch(tmp_path, "a.mp4")
    (tmp_path / "list.csv").write_text("a.mp4,x\ngone.mp4,x\na.mp4,y\n")
    listing = layouts.list_clips(str(tmp_path / "list.csv"))
    assert _rows(listing) == [("a", "x", None)]
    reasons = dict((os.path.basename(path), reason) for path, reason in listing.rejected)
    assert reasons["gone.mp4"] == "listed in list.csv, line 2, but not found"
    assert "listed twice" in reasons["a.mp4"]


def test_csv_paths_may_be_absolute(tmp_path):
    _touch(tmp_path, "data/p/a.mp4", "data/q/b.mp4")
    rows = [f"{tmp_path}/data/p/a.mp4", "q/b.mp4"]
    (tmp_path / "data" / "l.csv").write_text("\n".join(rows))
    listing = layouts.list_clips(str(tmp_path / "data" / "l.csv"))
    assert _rows(listing) == [("p/a", None, None), ("q/b", None, None)]


@pytest.mark.parametrize(
    "text", ["", "path,label\n", "a.mp4,x,y,z\n", "../a.mp4,x\n", 'a.mp4,"x\n', ",x\n"]
)
def test_bad_csv_is_refused(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(errors.UserError, match=r"list\.csv"):
        layouts.list_clips(str(tmp_path / "list.csv"))


def test_numbered_csv_labels_keep_their_numbers():
    clips = [layouts.Clip("a", "a", "10"), layouts.Clip("b", "b", "2")]
    assert layouts.class_names(clips, "csv") == [str(n) for n in range(11)]
    assert layouts.class_names(clips, "class") == ["10", "2"]


def test_csv_numbers_with_leading_zeros_are_numbers(tmp_path):
    _touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "list.csv").write_text("a.mp4,07\nb.mp4,7\nc.mp4,\n")
    listing = layouts.list_clips(str(tmp_path / "list.csv"))
    assert _rows(listing) == [("a", "7", None), ("b", "7", None), ("c", None, None)]
    assert layouts.class_names(listing.clips, "csv") == [str(n) for n in range(8)]
    (tmp_path / "list.csv").write_text("a.mp4,07\nb.mp4,x\n")  # names, then
    listing = layouts.list_clips(str(tmp_path / "list.csv"))
    assert layouts.class_names(listing.clips, "csv") == ["07", "x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.mp4,x\n\n\nb/../../c.mp4,x\n", "line 4: b/../../c.mp4 leads out"),
        ("..\n", r"line 1: \.\. leads out"),
        ("a.mp4,x\n".encode("utf-16"), "not a CSV file in UTF-8"),  # Excel's "Unicode text"
        ("Größe.mp4,x\n".encode("latin-1"), "not a CSV file in UTF-8"),
        ("path,label\r\n,x\r\n", "line 2: expected path,label"),
        ('"a.mp4","x', "not a CSV file in UTF-8: unexpected end of data"),
    ],
)
def test_bad_csv_lines_are_named(tmp_path, content, message):
    _touch(tmp_path, "a.mp4")
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(errors.UserError, match=message):
        layouts.list_clips(str(tmp_path / "list.csv"))


def test_csv_paths_out_of_its_folder_are_refused(tmp_path):
    _touch(tmp_path, "in/a.mp4", "in_too/b.mp4")
    (tmp_path / "in" / "l.csv").write_text(f"{tmp_path}/in/a.mp4\n{tmp_path}/in_too/b.mp4\n")
    with pytest.raises(
        errors.UserError, match="line 2: .*/in_too/b.mp4 leads out of .*/in; put the"
    ):
        layouts.list_clips(str(tmp_path / "in" / "l.csv"))


_NAME = st.text(max_size=9).filter(
    lambda s: (
        s.strip() == s and s not in ("", ".", "..") and not set(s) & set("/\0") and _is_utf8(s)
    )
)


def _is_utf8(text):
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


@given(st.lists(st.tuples(_NAME, st.text(st.characters(codec="utf-8"), max_size=5)), min_size=1))
def test_any_csv_row_comes_back(tmp_path_factory, rows):
    """What `csv` writes is what is read: quotes, commas, line breaks, any language."""
    folder = tmp_path_factory.mktemp("csv")
    with open(folder / "list.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    listing = layouts.list_clips(str(folder / "list.csv"))
    # No such files: each is rejected under the path that was meant.
    found = [os.path.relpath(path, folder) for path, _ in listing.rejected]
    existing = {"list.csv"} & {name for name, _ in rows}
    assert [name for name in found if name not in existing] == [
        name for name, _ in rows if name not in existing
    ]
