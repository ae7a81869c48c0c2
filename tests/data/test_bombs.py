"""Is what claims too many pixels refused before memory is taken for it? In a process that has little."""

import json
import os
import random
import subprocess
import sys
import zlib

import bombs
import numpy as np
import pytest
import test_mutated_videos
import tiny_videos
from PIL import Image

from tce_tf import errors
from tce_tf.data import decoding, footage, foreign_shards, shard_format, shard_reader
from tce_tf.data import manifest as manifests

LIMIT = "more than the 67108864 px this program decodes"
SIDE = 15_000  # 225 million px, below what libav itself refuses

# Reads good files first, so that libraries are loaded, then allows itself 100 MB more.
CHILD = """
import json, resource, sys
import numpy as np
from tce_tf.data import decoding, footage, pictures, shard_reader, video

def outcome(function):
    try:
        return function()
    except (pictures.VideoError, shard_reader.FrameError) as error:
        return str(error)

def try_all(paths):
    found = {}
    for path in paths:
        opened = footage.open_footage(path)
        encoding = video.EncodeOptions(pictures.Sizing(32))
        found[path] = [
            outcome(lambda: len(video.encode_clip(path, encoding).jpegs)),
            outcome(lambda: len(list(opened.frames(0)))),
            outcome(lambda: opened.num_frames(0)) in (0, 1, 2, 3, 4),
        ]
    return found

def try_shards(folder):
    reader = shard_reader.ShardReader([folder])
    use = lambda number, image: None
    return decoding.for_each_frame(reader, np.zeros(4, int), np.arange(4), use)

good, bad, shards, bad_shards = json.loads(sys.argv[1])
normal = try_all(good), try_shards(shards)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)
print(json.dumps([*normal, try_all(bad), try_shards(bad_shards)]))
"""


def _in_little_memory(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _jpeg(tmp_path, number=0):
    path = tmp_path / f"small{number}.jpg"
    Image.fromarray(tiny_videos.picture(number)).save(path)
    return path.read_bytes()


def _folder(path, *files):
    path.mkdir()
    for number, content in enumerate(files):
        is_png = content.startswith(b"\x89PNG")
        (path / f"{number}.{'png' if is_png else 'jpg'}").write_bytes(content)
    return str(path)


def _shards(folder, jpegs, height=48, width=64):
    """One video; its index and checksums are right, whatever its frames are."""
    folder.mkdir()
    times = list(range(len(jpegs)))
    record, offsets = shard_format.serialize_example({}, jpegs, times)
    file = shard_format.record_header(len(record)) + record + shard_format.record_footer(record)
    (folder / "a.tfrecord").write_bytes(file)
    rows = np.zeros(len(jpegs), shard_format.INDEX_DTYPE)
    rows["offset"] = offsets + shard_format.HEADER_BYTES
    rows["length"] = [len(jpeg) for jpeg in jpegs]
    rows["crc"] = [zlib.crc32(jpeg) for jpeg in jpegs]
    np.save(folder / "a.index.npy", rows)
    video = dict(
        name="v", video_index=0, num_frames=len(jpegs), height=height, width=width,
        frame_rate=25.0, label=None, group=None, shard="a.tfrecord", checksum="", truncated=False,
    )  # fmt: skip
    shards = [{"file": "a.tfrecord", "length": len(file)}]
    manifests.write(str(folder), manifests.Manifest({}, [], 1, 0, shards, [video]))
    return str(folder)


def test_bombs_are_refused_in_little_memory(tmp_path):
    jpeg, small = _jpeg(tmp_path), bombs.png(48, 64)
    large = bombs.png(SIDE, SIDE)
    assert len(large) < 300_000
    claims = [bombs.claiming(file, 60_000, 60_000) for file in (jpeg, small)]
    good = [
        _folder(tmp_path / "pictures", jpeg, small),
        bombs.video_of(tmp_path / "good.mov", [small] * 4),
        tiny_videos.write_video(tmp_path / "good.mp4", frames=4),
    ]
    (tmp_path / "named.mp4").write_bytes(large)
    (tmp_path / "header.y4m").write_bytes(
        b"YUV4MPEG2 W60000 H60000 F25:1 C420jpeg\nFRAME\n" + bytes(1000)
    )
    bad = {
        _folder(tmp_path / "jpeg", claims[0]): f"0.jpg: 60000x60000 px is {LIMIT}",
        _folder(tmp_path / "png", claims[1]): f"0.png: {LIMIT}",
        _folder(tmp_path / "whole", large): f"0.png: {LIMIT}",
        _folder(tmp_path / "one of two", small, large): 1,
        bombs.video_of(tmp_path / "first.mov", [large] * 2): f"a frame is damaged, or {LIMIT}",
        # The container and the first frames say nothing of it.
        bombs.video_of(tmp_path / "late.mov", [small, small, large, small]): 3,
        str(tmp_path / "named.mp4"): f"a frame is damaged, or {LIMIT}",
        str(tmp_path / "header.y4m"): "no readable video file",
    }
    jpegs = [_jpeg(tmp_path, number) for number in range(3)]
    shards = _shards(tmp_path / "shards", [*jpegs, jpegs[0]])
    bad_shards = _shards(tmp_path / "bad shards", [*jpegs, claims[0]])
    normal, normal_shards, found, found_shards = _in_little_memory(
        good, list(bad), shards, bad_shards
    )
    assert [outcome[:2] for outcome in normal.values()] == [[2, 2], [4, 4], [4, 4]]
    assert normal_shards == [None] * 4
    for path, expected in bad.items():
        stored, embedded, knows_length = found[path]
        for outcome in (stored, embedded):
            same = outcome == expected if isinstance(expected, int) else expected in outcome
            assert same, (path, outcome)
        assert knows_length, path
    assert found_shards[:3] == [None] * 3
    assert "60000x60000 pixels, 48x64 indexed" in found_shards[3]


def test_manifests_claim_no_more_than_is_decoded(tmp_path):
    jpeg = bombs.claiming(_jpeg(tmp_path), 60_000, 60_000)
    folder = _shards(tmp_path / "a", [jpeg], 60_000, 60_000)
    with pytest.raises(errors.UserError, match="impossible number of frames or size"):
        shard_reader.ShardReader([folder])


def test_a_single_frame_is_refused_as_all_are(tmp_path):
    jpeg = _jpeg(tmp_path)
    shards = footage.Shards(_shards(tmp_path / "a", [jpeg, bombs.claiming(jpeg, 60_000, 60_000)]))
    assert shards.frame_at(0, 0).shape == (48, 64, 3)
    with pytest.raises(footage.VideoError, match="60000x60000 pixels, 48x64 indexed"):
        shards.frame_at(0, 1)


def test_any_damage_to_a_jpeg_is_one_bad_frame(tmp_path):
    """Chroma as 4:4:1 was found so: a header of it made simplejpeg fail otherwise than by damage."""
    good = _jpeg(tmp_path)
    at = good.index(b"\xff\xc0") + 11
    jpegs = [good, good[:at] + b"\x14" + good[at + 1 :]]
    rng = random.Random(0)
    jpegs += [test_mutated_videos.changed(good, rng) for _ in range(2000)]
    reader = shard_reader.ShardReader([_shards(tmp_path / "a", jpegs)])
    count = len(jpegs)
    problems = decoding.for_each_frame(reader, [0] * count, range(count), lambda i, image: None)
    assert problems[0] is None and sum(problem is not None for problem in problems) > 200
    assert all(problem is None or " of video v in " in problem for problem in problems)


def test_other_programs_shards_claim_no_more_either(tmp_path):
    jpeg = bombs.claiming(_jpeg(tmp_path), 60_000, 60_000)
    folder = _shards(tmp_path / "a", [jpeg])
    for name in ("manifest.json", "a.index.npy"):
        os.unlink(os.path.join(folder, name))
    with pytest.raises(errors.UserError, match=f"a.tfrecord: 60000x60000 px is {LIMIT}"):
        foreign_shards.index_folder(folder)


def test_an_index_leads_out_of_no_shard(tmp_path):
    """Neither a place nor a length is believed: the one is no file offset, the other takes memory."""
    jpeg = _jpeg(tmp_path)
    folder = _shards(tmp_path / "a", [jpeg, jpeg])
    path = os.path.join(folder, "a.index.npy")
    for name, value in (("offset", 2**64 - 1), ("offset", 2**63), ("length", 2**32 - 1)):
        rows = np.load(path)
        rows[name][1] = value
        np.save(os.path.join(folder, "other.npy"), rows)
        os.replace(path, os.path.join(folder, "kept"))
        os.replace(os.path.join(folder, "other.npy"), path)
        reader = shard_reader.ShardReader([folder])
        with pytest.raises(shard_reader.FrameError, match="frame 1 of .*leads out of the file"):
            reader.read_frames([0, 0], [0, 1])
        assert reader.read_frames([0], [0]) == [jpeg]
        os.replace(os.path.join(folder, "kept"), path)


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': [('offset', '<u8'), (",  # found by fuzzing: an error of tokenize
        b"{'descr': '<u8', 'fortran_order': False, 'shape': (9999999999999999999999,), }\n",
        b"(" * 9000,
    ],
)
def test_no_index_header_is_a_traceback(tmp_path, version, header):
    folder = _shards(tmp_path / "a", [_jpeg(tmp_path)])
    length = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    content = b"\x93NUMPY" + version + length + header + bytes(100)
    with open(os.path.join(folder, "a.index.npy"), "wb") as file:
        file.write(content)
    with pytest.raises(errors.UserError, match=r"a\.index\.npy is damaged"):
        shard_reader.ShardReader([folder]).read_frames([0], [0])


def test_playlists_and_postscript_open_nothing(tmp_path):
    """A file with a video's or a picture's name must not have others read, or programs started."""
    secret = tiny_videos.write_video(tmp_path / "secret.ts", codec="mpeg4")
    tiny_videos.write_video(tmp_path / "in" / "beside.mp4")
    playlists = {
        "hls.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n"
        "#EXT-X-ENDLIST\n",
        "concat.mp4": "ffconcat version 1.0\nfile beside.mp4\n",
    }
    from tce_tf.data import pictures, video

    for name, text in playlists.items():
        (tmp_path / "in" / name).write_text(text)
        with pytest.raises(pictures.VideoError, match="no readable video file"):
            list(video.iterate_frames(str(tmp_path / "in" / name)))
    Image.new("RGB", (8, 8)).save(tmp_path / "page.eps")
    os.rename(tmp_path / "page.eps", tmp_path / "page.png")
    with pytest.raises(pictures.VideoError, match="page.png: cannot identify image file"):
        pictures.load_picture(str(tmp_path / "page.png"))
