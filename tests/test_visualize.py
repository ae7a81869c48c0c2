"""Does visualize work from the command line, and refuse in one line what it cannot do?"""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from sklearn import decomposition

from tce_tf import command, embed, visualize
from tce_tf.data import synthetic


@pytest.fixture(name="clips", scope="module")
def _clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "all"
    synthetic.make_clips(str(folder), num_videos=4, num_frames=12)
    return folder


def fail(*arguments, capsys):
    with pytest.raises(SystemExit) as end:
        command.run(visualize.main, visualize.define_flags, arguments)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return end.value.code, line


def test_two_encoders_of_a_folder(clips, tmp_path, capsys):
    output = tmp_path / "new" / "space.png"
    arguments = ["--encoder=random", "--encoder=none", "--image_size=32", f"--input={clips}",
                 f"--output={output}", "--max_frames=32"]  # fmt: skip
    visualize.main(command.parse(visualize.define_flags, arguments))
    random, again, last = capsys.readouterr().out.splitlines()
    assert random.removeprefix("random:") == again.removeprefix("none:")  # one seed
    assert "neighbours 0." in random and "others 0." in random
    assert last == f"{output}: 4 videos, 24 frames, one of 2"
    first = output.read_bytes()
    with Image.open(output) as image:
        assert image.width > image.height > 400
    visualize.main(command.parse(visualize.define_flags, arguments))
    assert output.read_bytes() == first


def test_the_plane_of_principal_components(clips, tmp_path):
    """Its places, in the page's data, against scikit-learn on the vectors that embed writes."""
    output, vectors = tmp_path / "space.html", tmp_path / "vectors.npz"
    common = ["--encoder=none", "--image_size=32", f"--input={clips}"]
    values = command.parse(
        visualize.define_flags, [*common, "--projection=pca", f"--output={output}"]
    )
    visualize.main(values)
    data = json.loads(re.search(r'id="data">(.*?)<', output.read_text("utf-8"))[1])
    embed.main(command.parse(embed.define_flags, [*common, f"--output={vectors}"]))
    features = np.load(vectors)["features"]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    wanted = decomposition.PCA(2).fit_transform(features)
    found = np.stack([data["encoders"][0][axis] for axis in "xy"], axis=1)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (found, wanted)]
    # The page keeps places in whole steps of its own scale.
    np.testing.assert_allclose(
        distances[0] / distances[0].max(), distances[1] / distances[1].max(), atol=2e-3
    )


def test_a_gif_of_one_video(clips, tmp_path):
    video = next(clips.glob("*/*.mp4"))
    visualize.main(
        command.parse(
            visualize.define_flags,
            ["--encoder=random", "--image_size=32", f"--input={video}",
             "--representation=embeddings", f"--output={tmp_path}/a.GIF"],
        )
    )  # fmt: skip
    with Image.open(tmp_path / "a.GIF") as gif:
        assert gif.n_frames == 12


def test_a_page_of_two_encoders(clips, tmp_path, capsys):
    output = tmp_path / "space.html"
    arguments = ["--encoder=random", "--encoder=none", "--image_size=32", f"--input={clips}",
                 f"--output={output}", "--max_frames=32"]  # fmt: skip
    visualize.main(command.parse(visualize.define_flags, arguments))
    text = output.read_text("utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', text)[1])
    assert [encoder["name"] for encoder in data["encoders"]] == ["random", "none"]
    assert [len(encoder["x"]) for encoder in data["encoders"]] == [24, 24]
    assert [video["count"] for video in data["videos"]] == [6] * 4
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f"{e['name']}: {e['figures']}" for e in data["encoders"]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--encoder=random", "--input=a"), "--input and --output"),
        (("--encoder=random", "--input=a", "--output=b.jpg"), "--output=b.jpg: must end in .png"),
        (("--input=a", "--output=b.png"), "--encoder is needed"),
        (("--encoder=a", "--encoder=a", "--input=a", "--output=b.png"), "names one twice"),
        (("--encoder=a", "--input=a", "--output=b.png", "--variance=0"), "--variance=0"),
        (("--encoder=a", "--input=a", "--output=b.png", "--variance=1.5"), "--variance=1.5"),
        (("--encoder=a", "--input=a", "--output=b.png", "--perplexity=0"), "--perplexity"),
        (("--encoder=a", "--input=a", "--output=b.png", "--max_frames=-1"), "--max_frames"),
    ],
)
def test_flags_that_are_missing_or_wrong_exit_2(arguments, named, capsys):
    code, line = fail(*arguments, capsys=capsys)
    assert code == 2 and named in line, line


def test_input_that_cannot_be_used_exits_1(clips, tmp_path, capsys):
    output = f"--output={tmp_path}/a.png"
    code, line = fail("--encoder=random", f"--input={tmp_path}/no", output, capsys=capsys)
    assert code == 1 and f"--input={tmp_path}/no does not exist" in line
    code, line = fail(f"--encoder={tmp_path}", f"--input={clips}", output, capsys=capsys)
    assert code == 1 and f"--encoder={tmp_path}" in line
    code, line = fail(
        f"--encoder=imagenet:{tmp_path}/r.pth", f"--input={clips}", output, capsys=capsys
    )
    assert code == 1 and f"--encoder={tmp_path}/r.pth" in line
    (tmp_path / "broken.mp4").write_text("no video")
    code, line = fail(
        "--encoder=random", "--image_size=32", f"--input={tmp_path}/broken.mp4", output,
        capsys=capsys,
    )  # fmt: skip
    assert code == 1 and "no video that can be read; broken: " in line
    (tmp_path / "b.png").mkdir()
    code, line = fail(
        "--encoder=random", f"--input={clips}", f"--output={tmp_path}/b.png", capsys=capsys
    )
    assert code == 1 and "is a folder" in line
    assert sorted(os.listdir(tmp_path)) == ["b.png", "broken.mp4"]
