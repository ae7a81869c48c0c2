"""Is the page of a collection whole, safe and true? Its frames, neighbours and names, read back."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
import simplejpeg

from tce_tf import errors
from tce_tf.data import pictures
from tce_tf.visualization import collection, space_page

HOSTILE = '</script><img src=x onerror="window.hacked=1"><!--<script>&amp;\''
NAMES = (HOSTILE, "v_Walk_g02 ü.avi", "v_Run_g01.avi")
LABELS = ("</option><b onclick=hack()>walk", "walk", None)
FRAMES = (9, 12, 1)


def frame(video, number):
    """48x32 px of the video's colour; its grey bar moves to the right by three pixels a frame."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[..., video] = 200
    image[4:28, 3 * number : 3 * number + 12] = 128
    return image


def make(encoder="random", seed=0, names=NAMES):
    """A Collection of three videos, and positions: one video a row, a frame further right each."""
    videos = np.repeat(np.arange(3), FRAMES)
    numbers = np.concatenate([np.arange(count) for count in FRAMES])
    vectors = np.random.default_rng(seed).normal(size=(len(videos), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    thumbnails = [
        pictures.encode_jpeg(frame(v, n), 90) for v, n in zip(videos, numbers, strict=True)
    ]
    found = collection.Collection(
        encoder, vectors, names, LABELS, videos, numbers * 40_000, thumbnails, np.ones(3, np.int64)
    )
    return found, np.stack([numbers, videos * 5.0], axis=1).astype(np.float32)


def content(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', page)[1])


def test_each_frame_stands_in_its_cell_of_the_sheet():
    found, places = make()
    videos = content(space_page.space_page([found], [places]))["videos"]
    assert [v["name"] for v in videos] == list(NAMES)
    assert [v["label"] for v in videos] == list(LABELS)
    assert [(v["start"], v["count"]) for v in videos] == [(0, 9), (9, 12), (21, 1)]
    for number, video in enumerate(videos):
        sheet = simplejpeg.decode_jpeg(base64.b64decode(video["sheet"]), colorspace="RGB")
        width, height = video["cell"]
        for k in range(video["count"]):
            top, left = k // video["columns"] * height, k % video["columns"] * width
            cell = sheet[top : top + height, left : left + width].astype(int)
            errors = [np.abs(cell - frame(number, other)).mean() for other in range(12)]
            assert np.argmin(errors) == k and errors[k] < 15


def test_thumbnails_shrink_to_the_asked_side_and_never_grow():
    found, places = make()
    for side, cell in ((24, [24, 16]), (500, [48, 32])):
        page = space_page.space_page([found], [places], thumbnail_side=side)
        assert content(page)["videos"][0]["cell"] == cell


def test_frames_of_other_sizes_stand_in_the_middle_of_their_cell():
    found, places = make()
    small = pictures.encode_jpeg(np.full((16, 16, 3), 255, np.uint8), 90)
    thumbnails = [small, *found.thumbnails[1:]]
    page = space_page.space_page([dataclasses.replace(found, thumbnails=thumbnails)], [places])
    video = content(page)["videos"][0]
    sheet = simplejpeg.decode_jpeg(base64.b64decode(video["sheet"]), colorspace="RGB")
    assert video["cell"] == [48, 32]
    assert sheet[10:22, 18:30].min() > 240 and sheet[:4, :12].max() < 16


def test_neighbours_are_those_of_the_full_space():
    found, places = make()
    (encoder,) = content(space_page.space_page([found], [places]))["encoders"]
    cosines = found.vectors.astype(np.float64) @ found.vectors.T.astype(np.float64)
    for i in range(len(cosines)):
        others = [j for j in np.argsort(-cosines[i]) if j != i]
        elsewhere = [j for j in others if found.video_of_frame[j] != found.video_of_frame[i]]
        for key, expected in (("nearest", others), ("nearest_elsewhere", elsewhere)):
            expected = expected[: space_page.NUM_NEIGHBOURS]
            assert encoder[key]["frames"][i] == expected
            np.testing.assert_allclose(encoder[key]["cosines"][i], cosines[i, expected], atol=6e-4)


def test_figures_of_coherence_stand_under_each_encoder():
    made = [make("random"), make("trained", seed=1)]
    found = content(space_page.space_page(*zip(*made, strict=True)))
    for encoder, (expected, _) in zip(found["encoders"], made, strict=True):
        vectors = [expected.vectors[:9], expected.vectors[9:21]]  # one frame has no neighbour
        near = np.mean([np.sum(v[1:] * v[:-1], axis=1).mean() for v in vectors])
        assert encoder["figures"].startswith(f"neighbours {near:.3f} "), (encoder, near)
    assert any("Kendall" in line for line in found["explanations"])


def test_one_video_has_no_neighbours_in_others():
    found, places = make()
    alone = dataclasses.replace(
        found, vectors=found.vectors[:9], names=NAMES[:1], labels=LABELS[:1],
        video_of_frame=found.video_of_frame[:9], timestamps=found.timestamps[:9],
        thumbnails=found.thumbnails[:9],
    )  # fmt: skip
    (encoder,) = content(space_page.space_page([alone], [places[:9]]))["encoders"]
    assert encoder["nearest_elsewhere"]["frames"] == [[]] * 9
    assert all(len(row) == space_page.NUM_NEIGHBOURS for row in encoder["nearest"]["frames"])


def test_names_reach_the_page_as_data_alone():
    lone_surrogate = b"\xff.avi".decode("utf-8", "surrogateescape")  # a name that is no UTF-8
    found, places = make(encoder=HOSTILE, names=(HOSTILE, lone_surrogate, "\u2028"))
    other, _ = make(encoder="a")
    page = space_page.space_page([found, other], [places, places])
    page.encode("utf-8")
    assert content(page)["videos"][0]["name"] == HOSTILE == content(page)["encoders"][0]["name"]
    plain = space_page.space_page([other, other], [places, places])
    for sign in ("<script", "</script", "<img", "<!--", "onerror"):
        # The data of `plain` has hostile names too; nothing of them may stand as markup.
        own = page.replace(re.search(r'id="data">(.*?)<', page)[1], "")
        assert own.count(sign) == plain.replace(re.search(r'id="data">(.*?)<', plain)[1], "").count(
            sign
        )
    assert not set("<>&") & set(re.search(r'id="data">(.*?)</script>', page)[1])


def test_what_does_not_fit_is_refused():
    found, places = make()
    for bad in (places[:-1], places[:, :1], places * np.nan):
        with pytest.raises(ValueError, match="positions of random"):
            space_page.space_page([found], [bad])
    with pytest.raises(ValueError, match="1 collections, 2 sets"):
        space_page.space_page([found], [places, places])
    apart = dataclasses.replace(found, video_of_frame=found.video_of_frame[::-1])
    with pytest.raises(ValueError, match="stand together"):
        space_page.space_page([apart], [places])
    with pytest.raises(ValueError, match="show different frames"):
        space_page.space_page([found, apart], [places, places])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    found, places = make()
    with pytest.raises(errors.UserError, match="pip install plotly"):
        space_page.space_page([found], [places])
