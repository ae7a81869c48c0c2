"""Does `evaluate` work as a user types it? Protocols, splits, mistakes, stacks; leaks: test_main_job."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from tce_tf import command, embed, errors, evaluate
from tce_tf.serving import encoder_module, export, loader


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "tce_tf.evaluate", *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )


def here(*flags):
    """The same in this process: starting TensorFlow takes longer than most of these evaluations."""
    evaluate.main(command.parse(evaluate.define_flags, flags))


@pytest.fixture(scope="module", name="data")
def _data(synthetic_shards):
    return [f"--train={synthetic_shards['train']}", f"--test={synthetic_shards['test']}"]


RANDOM = ["--encoder=none", "--image_size=32"]


def test_every_protocol(data, tmp_path):
    output = tmp_path / "out" / "scores.json"
    done = run(
        *RANDOM, *data, "--protocol=all", "--shots=1,2,30", "--frames_per_video=3",
        "--coherence_frames=5", "--resize_mode=squash", "--seed=3", f"--output={output}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "32/32 videos" in done.stderr  # progress, for one who waits
    scores = json.loads(output.read_text())
    numbers = [f"{p}.top{k}" for p in ("knn", "linear") for k in (1, 5)]
    numbers += [f"retrieval.r{k}" for k in (1, 5, 10, 20, 50)]
    numbers += [f"few_shot.{n}.{kind}" for n in (1, 2) for kind in ("mean", "std")]
    assert all(0 <= scores[name] <= 1 for name in numbers)
    assert "few_shot.30.mean" not in scores and "30 shots is left out" in done.stderr
    assert {name for name in scores if name.startswith("coherence.")} >= {
        "coherence.neighbour_cosine", "coherence.other_cosine", "coherence.cosine_at.4",
        "coherence.order_tau", "coherence.alignment", "coherence.uniformity",
        "coherence.effective_rank", "coherence.relative_step", "coherence.curvature",
    }  # fmt: skip
    for title, name in (("kNN top-1", "knn.top1"), ("retrieval R@1", "retrieval.r1")):
        assert f"{title} {100 * scores[name]:.1f} %" in done.stdout
    assert len(scores["per_class"]) == 8
    for table in scores["per_class"].values():
        assert set(table) >= {"videos", "knn.top1", "linear.top5", "retrieval.r50"}
    settings = scores["settings"]
    assert settings["resize_mode"] == settings["encoder_config"]["resize_mode"] == "squash"
    assert settings["seed"] == 3 and len(settings["data"]["test"][0]["manifest"]) == 64
    assert {"tensorflow", "scikit-learn"} <= set(settings["versions"])
    with open(output.parent / "scores.linear.confusion.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    counts = np.array([[int(x) for x in row[1:]] for row in rows])
    assert header[1:] == [row[0] for row in rows] and counts.sum() == 16
    assert np.trace(counts) / 16 == pytest.approx(scores["linear.top1"])
    assert (output.parent / "scores.knn.confusion.png").read_bytes().startswith(b"\x89PNG")
    page = (output.parent / "scores.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "retrieval.r50" in page


def test_several_splits(synthetic_shards, tmp_path, capsys):
    # The same videos under two splits would have no deviation: the second one swaps the sides.
    for split, (train, test) in {"1": ("train", "test"), "2": ("test", "train")}.items():
        (tmp_path / f"train{split}").symlink_to(synthetic_shards[train])
        (tmp_path / f"test{split}").symlink_to(synthetic_shards[test])
    paths = [f"--train={tmp_path}/train{{split}}", f"--test={tmp_path}/test{{split}}"]
    common = [*RANDOM, "--protocol=knn,coherence", "--coherence_frames=2", "--frames_per_video=2"]
    output = tmp_path / "both.json"
    here(*common, *paths, "--splits=1,2", f"--output={output}")
    scores = json.loads(output.read_text())
    parts = [scores["splits"][split] for split in ("1", "2")]
    for name in ("knn.top1", "coherence.effective_rank"):
        values = [part[name] for part in parts]
        assert scores[name] == pytest.approx(np.mean(values))
        assert scores["std"][name] == pytest.approx(np.std(values, ddof=1))
    assert scores["std"]["coherence.effective_rank"] > 0
    assert parts[1]["settings"]["train"] == f"{tmp_path}/train2"
    shown = f"{100 * scores['knn.top1']:.1f} % ({100 * scores['std']['knn.top1']:.1f})"
    assert shown in capsys.readouterr().out
    with open(tmp_path / "both.knn.confusion.csv", encoding="utf-8", newline="") as file:
        counts = [[int(x) for x in row[1:]] for row in list(csv.reader(file))[1:]]
    assert np.sum(counts) == 16 + 32


def test_all_splits_are_opened_before_the_first_is_scored(data, synthetic_shards, tmp_path, capsys):
    (tmp_path / "test1").symlink_to(synthetic_shards["test"])
    train = data[0]
    assert train.startswith("--train=")
    flags = [*RANDOM, train, f"--test={tmp_path}/test{{split}}", "--splits=1,2"]
    with pytest.raises(errors.UserError, match=f"{tmp_path}/test2"):
        here(*flags)
    (tmp_path / "test2").symlink_to(synthetic_shards["train"])
    with pytest.raises(errors.UserError, match="leakage"):
        here(*flags)
    assert "split 1" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocol=knn,svm"], "--protocol=knn,svm: must be"),
        (["--protocol=few_shot", "--shots=1,x"], "--shots=1,x: must be numbers"),
        (["--protocol=few_shot", "--shots=0"], "--shots=0: must be"),
        (["--test="], "--train and --test are needed"),
        (["--splits=1,2"], "no {split} for --splits"),
        (["--splits=1,,2"], "two or more"),
        (["--train=a{split}"], "--splits is needed"),
        (["--encoder="], "--encoder is needed"),
    ],
)
def test_mistakes_in_flags(data, flags, message):
    with pytest.raises(errors.FlagError, match=message):
        here(*RANDOM, *data, *flags)


def test_what_cannot_be_written_is_refused_before_the_work(data, tmp_path):
    with pytest.raises(errors.UserError, match="is a folder"):
        here("--encoder=nowhere", *data, f"--output={tmp_path}")


def test_an_encoder_of_stacks_in_evaluate_and_embed(data, synthetic_shards, tmp_path):
    config = encoder_module.EncoderConfig(
        "resnet18", embedding_width=8, image_size=32, input_mode="stack_of_differences"
    )
    export.export_encoder(loader.build_encoder(config, seed=5), str(tmp_path / "stacks"))
    output = tmp_path / "scores.json"
    common = [*data, "--frames_per_video=2", "--protocol=knn,coherence", "--coherence_frames=3",
              f"--output={output}"]  # fmt: skip
    here(f"--encoder={tmp_path}/stacks", *common)
    exported = json.loads(output.read_text())
    assert exported["settings"]["encoder_config"]["input_mode"] == "stack_of_differences"
    # The floor for it: random weights that see the same.
    here(*RANDOM, "--input_mode=stack_of_differences", "--seed=5", *common)
    fresh = json.loads(output.read_text())
    assert fresh["knn.top1"] == exported["knn.top1"]
    assert fresh["coherence.effective_rank"] == pytest.approx(
        exported["coherence.effective_rank"], rel=1e-3
    )
    flags = [f"--encoder={tmp_path}/stacks", f"--input={synthetic_shards['test']}",
             f"--output={tmp_path}/e.npz"]  # fmt: skip
    embed.main(command.parse(embed.define_flags, flags))
    with np.load(tmp_path / "e.npz") as rows:
        assert rows["features"].shape == (160, 512) and rows["embeddings"].shape == (160, 8)
