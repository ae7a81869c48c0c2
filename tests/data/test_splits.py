"""Official split lists against what lies on the disk."""

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tce_tf import errors
from tce_tf.data import layouts, splits

SHARED = os.path.join(os.path.dirname(__file__), "../../../shared/data")
needs_shared = pytest.mark.skipif(
    not os.path.isdir(SHARED), reason="../shared/data (real videos and lists) is not here"
)


def _write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
    return str(folder)


def _listing(*names):
    return layouts.Listing([layouts.Clip(name, f"/d/{name}.mp4") for name in names], [], "ucf101")


def test_spelling_extension_bom_and_line_ends(tmp_path):
    folder = _write(
        tmp_path / "s",
        classInd="\ufeff1 Archery\r\n2 HandstandPushups\r\n",
        trainlist01="HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n",
        testlist01="HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n",
    )
    lists = splits.read_lists(folder)
    assert lists.class_names == ["Archery", "HandstandPushups"]
    listing = _listing("HandStandPushups/v_HandstandPushups_g01_c01", "Other/v_x_g01_c01")
    clips, rejected = splits.select(listing, lists, "test")
    assert [(clip.name, clip.label_text) for clip in clips] == [
        ("HandStandPushups/v_HandstandPushups_g01_c01", "HandstandPushups")
    ]
    assert rejected == []
    assert splits.select(listing, lists, "train") == (
        [],
        [
            (
                "HandstandPushups/v_HandStandPushups_g08_c01",
                "listed in trainlist01.txt but not found",
            )
        ],
    )


def test_flat_and_nested_disks_are_found(tmp_path):
    folder = _write(
        tmp_path / "s", classInd="1 A\n", trainlist01="A/x.avi 1\n", testlist01="A/y.avi\n"
    )
    lists = splits.read_lists(folder)
    for names in (("x", "y"), ("UCF-101/A/x", "UCF-101/A/y"), ("a/x", "a/y")):
        clips, rejected = splits.select(_listing(*names), lists, "all")
        assert [clip.name for clip in clips] == list(names) and not rejected
    clips, rejected = splits.select(_listing("B/x", "B/y"), lists, "all")
    assert not clips and len(rejected) == 2
    with pytest.raises(errors.UserError, match="twice"):
        splits.select(_listing("p/A/x", "q/A/x"), lists, "train")


def test_class_list_alone(tmp_path):
    lists = splits.read_lists(_write(tmp_path / "s", classInd="2 a\n1 b\n"))
    assert lists.class_names == ["b", "a"] and lists.entries is None


def test_hmdb51(tmp_path):
    folder = _write(
        tmp_path / "s",
        run_test_split1="#20 a_run_0.avi 1 \nb_run_1.avi 2 \nc_run_2.avi 0\n",
        brush_hair_test_split1="d_0.avi 1 \n",
    )
    lists = splits.read_lists(folder)
    assert lists.class_names == ["brush_hair", "run"]
    listing = _listing("run/#20 a_run_0", "run/b_run_1", "run/c_run_2", "brush_hair/d_0")

    def chosen(subset):
        return [clip.name for clip in splits.select(listing, lists, subset)[0]]

    assert chosen("train") == ["brush_hair/d_0", "run/#20 a_run_0"]
    assert chosen("test") == ["run/b_run_1"]
    assert len(chosen("all")) == 4


def test_hmdb51_labels_follow_the_class_names(tmp_path):
    """Not the files': sword_exercise_test_split1.txt sorts before sword_test_split1.txt."""
    files = dict.fromkeys(["sword_test_split1", "sword_exercise_test_split1"], "a.avi 1\n")
    lists = splits.read_lists(_write(tmp_path / "s", **files))
    assert lists.class_names == ["sword", "sword_exercise"]
    clips, _ = splits.select(_listing("sword/a", "sword_exercise/a"), lists, "train")
    assert [clip.label_text for clip in clips] == ["sword", "sword_exercise"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classInd": "1 A\n"} | dict.fromkeys(["trainlist02"], "A/x.avi 1\n"), "trainlist01"),
        ({"other": ""}, "neither"),
        ({"classInd": "1 A\n3 B\n", "trainlist01": "", "testlist01": ""}, "without gaps"),
        ({"classInd": "1 A\n2 a\n", "trainlist01": "", "testlist01": ""}, "line 2"),
        ({"classInd": "one A\n", "trainlist01": "", "testlist01": ""}, "line 1"),
        ({"classInd": "1 A\n", "trainlist01": "B/x.avi 1\n", "testlist01": ""}, "'B' is not in"),
        ({"classInd": "1 A\n2 B\n", "trainlist01": "A/x.avi 2\n", "testlist01": ""}, "label 2"),
        ({"classInd": "1 A\n", "trainlist01": "x.avi 1\n", "testlist01": ""}, "line 1"),
        ({"run_test_split1": "x.avi 7\n"}, "line 1"),
    ],
)
def test_bad_lists_are_refused(tmp_path, files, message):
    with pytest.raises(errors.UserError, match=message):
        splits.read_lists(_write(tmp_path / "s", **files))


def test_doubles_are_rejected_and_contradictions_refused(tmp_path):
    train = "A/x.avi 1\nA/x.avi 1\na/X.mp4 1\n"
    files = {"classInd": "1 A\n", "trainlist01": train, "testlist01": "A/y.avi\n"}
    lists = splits.read_lists(_write(tmp_path / "s", **files))
    clips, rejected = splits.select(_listing("A/x", "A/y"), lists, "train")
    assert [clip.name for clip in clips] == ["A/x"]
    reason = "listed twice, the second time in trainlist01.txt"
    assert rejected == [("A/x", reason), ("a/X", reason)]
    files["testlist01"] += "A/X.avi\n"
    lists = splits.read_lists(_write(tmp_path / "s", **files))
    for subset in splits.SUBSETS:
        message = "A/X, in testlist01.txt, is listed for training and for testing"
        with pytest.raises(errors.UserError, match=message):
            splits.select(_listing("A/x", "A/y"), lists, subset)


def test_lists_name_clips_and_open_nothing(tmp_path):
    """A path that climbs out is a name that no clip has."""
    (tmp_path / "secret.avi").write_text("x")
    folder = _write(
        tmp_path / "s",
        classInd="1 ..\n2 A\n",
        trainlist01=f"../../secret.avi\nA/../../secret.avi 1\n{tmp_path}/A/x.avi 2\n".replace(
            f"{tmp_path}/", "../" * 9
        ),
        testlist01="A/x.avi\n",
    )
    lists = splits.read_lists(folder)
    clips, rejected = splits.select(_listing("B/x"), lists, "train")
    assert not clips and len(rejected) == 3
    assert all("but not found" in reason for _, reason in rejected)


def test_missing_folder(tmp_path):
    with pytest.raises(errors.UserError, match="--split_dir"):
        splits.read_lists(str(tmp_path / "none"))


_WORD = st.text(string.ascii_letters + string.digits + "_-#;! .", min_size=1, max_size=12).filter(
    lambda s: s == s.strip() and not s.endswith(".") and splits.layouts.stem(s) == s
)


@given(
    st.lists(_WORD, min_size=1, max_size=4, unique_by=str.casefold),
    st.lists(_WORD, max_size=6, unique_by=str.casefold),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_names_come_back(tmp_path_factory, classes, clips, ending):
    folder = tmp_path_factory.mktemp("s")
    lines = [f"{c}/{clip}.avi {n + 1}" for n, c in enumerate(classes) for clip in clips]
    _write(
        folder,
        classInd=ending.join(f"{n + 1} {c}" for n, c in enumerate(classes)),
        trainlist01=ending.join(lines),
        testlist01="",
    )
    lists = splits.read_lists(str(folder))
    assert lists.class_names == classes
    wanted = [(f"{c}/{clip}", c) for c in classes for clip in clips]
    assert [(entry.path, entry.class_name) for entry in lists.entries] == wanted


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(tmp_path_factory, classes, lines):
    folder = tmp_path_factory.mktemp("s")
    (folder / "classInd.txt").write_bytes(classes)
    (folder / "trainlist01.txt").write_bytes(lines)
    (folder / "testlist01.txt").write_bytes(b"")
    try:
        splits.read_lists(str(folder))
    except errors.UserError as error:
        assert str(folder) in str(error)


@needs_shared
@pytest.mark.parametrize(
    ("name", "split", "classes", "train", "test"),
    [("ucf101", 1, 101, 9537, 3783), ("ucf101", 3, 101, 9624, 3696), ("hmdb51", 1, 51, 3570, 1530)],
)
def test_official_lists(name, split, classes, train, test):
    lists = splits.read_lists(os.path.join(SHARED, "splits", name), split)
    assert len(lists.class_names) == classes
    counts = [sum(e.subset == s for e in lists.entries) for s in ("train", "test")]
    assert counts == [train, test]


@needs_shared
@pytest.mark.parametrize(("split", "train", "test"), [(1, 373, 141), (2, 367, 147), (3, 355, 159)])
def test_combined9_on_the_real_disk(split, train, test):
    lists = splits.read_lists(os.path.join(SHARED, "splits/combined9"), split)
    listing = layouts.list_clips(SHARED, "ucf101")
    for subset, count in (("train", train), ("test", test)):
        clips, rejected = splits.select(listing, lists, subset)
        assert (len(clips), rejected) == (count, [])
        assert all(clip.label_text == clip.name.split("/")[1] for clip in clips)
