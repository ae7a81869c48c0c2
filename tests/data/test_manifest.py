"""The manifest survives a round trip and refuses what it should, naming the file."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tce_tf import errors
from tce_tf.data import manifest as manifests


def _video(index=0, **changes):
    return {
        "name": f"clip{index}",
        "video_index": index,
        "num_frames": 5,
        "height": 48,
        "width": 64,
        "frame_rate": 25.0,
        "label": 1,
        "group": None,
        "shard": "train-00000-of-00001.tfrecord",
        "checksum": "00",
        "truncated": False,
    } | changes


def _manifest():
    return manifests.Manifest(
        arguments={"input": "videos", "size": None},
        class_names=["a", 'b "quoted"\nä'],
        num_rows=4,
        num_rejected=1,
        shards=[{"file": "train-00000-of-00001.tfrecord", "length": 1234}],
        videos=[_video(0), _video(3, label=None, group="g", truncated=True)],
    )


def test_round_trip(tmp_path):
    manifests.write(str(tmp_path), _manifest())
    assert manifests.read(str(tmp_path)) == _manifest()
    assert not [path for path in tmp_path.iterdir() if path.name != "manifest.json"]
    document = json.loads((tmp_path / "manifest.json").read_text())
    assert (document["num_videos"], document["num_frames"], document["num_truncated"]) == (2, 10, 1)


def test_empty_lists_are_valid_json(tmp_path):
    empty = manifests.Manifest({}, [], 0, 0, [], [])
    manifests.write(str(tmp_path), empty)
    assert manifests.read(str(tmp_path)) == empty


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format_version"], 2, "format version 2"),
        (["format_version"], True, "format version"),
        (["videos", 1, "video_index"], 0, "video_index 0"),
        (["videos", 1, "video_index"], 4, "video_index 4"),
        (["videos", 0, "label"], 2, "label 2 of 2"),
        (["videos", 0, "label"], True, "'label'"),
        (["videos", 0, "num_frames"], 0, "no frames"),
        (["videos", 0, "num_frames"], "5", "'num_frames'"),
        (["videos", 0, "num_frames"], 2**70, "impossible"),
        (["videos", 0, "truncated"], 0, "'truncated'"),
        (["videos", 0, "frame_rate"], float("nan"), "frame_rate"),
        (["videos", 0, "frame_rate"], 10**400, "frame_rate"),  # found by fuzzing
        (["videos", 0, "shard"], "other.tfrecord", "unknown or out of order"),
        (["videos", 0], [], "is not an object"),
        (["shards", 0, "file"], "../../etc/passwd", "bad file"),
        (["shards", 0, "length"], -1, "bad file or length"),
        (["class_names"], ["a", "a"], "twice"),
        (["class_names"], [1, 2], "other than names"),
        (["num_rows"], None, "'num_rows'"),
        (["videos"], {}, "'videos'"),
    ],
)
def test_faults_are_named(tmp_path, path, value, message):
    document = json.loads(manifests.to_json(_manifest()))
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(errors.UserError, match=message) as caught:
        manifests.read(str(tmp_path))
    assert "manifest.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b"null"])
def test_no_manifest_at_all(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(errors.UserError, match=r"manifest\.json"):
        manifests.read(str(tmp_path))


def test_missing_folder_and_missing_manifest(tmp_path):
    with pytest.raises(errors.UserError, match="nowhere"):
        manifests.read(str(tmp_path / "nowhere"))
    with pytest.raises(errors.UserError, match="make_tfrecords"):
        manifests.read(str(tmp_path))


_ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([{}])
)


@settings(max_examples=300)
@given(st.data())
def test_any_edit_is_accepted_or_refused_in_one_line(data):
    document = copy.deepcopy(json.loads(manifests.to_json(_manifest())))
    target = data.draw(st.sampled_from([document, document["videos"][0], document["shards"][0]]))
    key = data.draw(st.sampled_from(sorted(target)))
    if data.draw(st.booleans()):
        del target[key]
    else:
        target[key] = data.draw(_ODD)
    try:
        manifests.parse(document, "manifest.json")
    except errors.UserError as error:
        assert "manifest.json" in str(error)
