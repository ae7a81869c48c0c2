"""Does a run train, log, resume and export as its settings say?"""

import dataclasses
import glob
import json
import shutil

import numpy as np
import pytest
import small_network
import tensorflow as tf

from tce_tf import config, errors
from tce_tf.modeling import checkpoint_files, resnet
from tce_tf.serving import loader
from tce_tf.training import metrics_log, run

LOGGED = set(
    "step epoch loss nce_loss rotation_loss rotation_accuracy contrast_accuracy "
    "positive_similarity negative_similarity hard_negative_fraction mining_threshold "
    "embedding_std learning_rate frames_per_second input_wait_fraction".split()
)
# Clips of ten frames give the monitor's runs of nine, so distances up to eight.
MONITORED = {"knn.top1", "knn.top5"} | {
    f"coherence.{name}"
    for name in (
        "neighbour_cosine other_cosine cosine_at.1 cosine_at.2 cosine_at.4 cosine_at.8 order_tau "
        "alignment uniformity effective_rank relative_step curvature"
    ).split()
}


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Two blocks: what goes on around the network is tested, and each run is traced anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)
        yield


@pytest.fixture(name="settings")
def _settings(synthetic_shards, tmp_path):
    return config.TrainConfig(
        data=synthetic_shards["train"],
        workdir=str(tmp_path / "run"),
        image_size=32,
        batch_size=8,
        num_negatives=8,
        epochs=2,
        decay_epochs="1",
        log_every=1,
        checkpoint_every=3,
        learning_rate=0.001,
    )


def lines(settings):
    with open(f"{settings.workdir}/metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_run_resume_and_export(settings, synthetic_shards, tmp_path):
    full = dataclasses.replace(
        settings,
        export_dir=str(tmp_path / "exported"),
        eval_train=synthetic_shards["train"],
        eval_test=synthetic_shards["test"],
    )
    result = run.train(full)
    assert result.step == 8  # 32 videos, batch 8, 2 epochs
    logged = lines(full)
    assert [line["step"] for line in logged] == list(range(1, 9))
    assert set(logged[0]) == LOGGED and set(logged[-1]) == LOGGED | MONITORED
    assert logged[-1]["coherence.neighbour_cosine"] > logged[-1]["coherence.cosine_at.8"]
    assert [line["epoch"] for line in logged] == [0] * 4 + [1] * 4
    assert [line["learning_rate"] for line in logged] == pytest.approx([0.001] * 4 + [0.0001] * 4)
    assert logged[4]["mining_threshold"] == pytest.approx(1 - 2 * np.exp(-5 * 4 / 8))
    assert all(np.isfinite(line["loss"]) for line in logged)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["settings"]["batch_size"] == 8 and saved["versions"]["tensorflow"]
    assert len(saved["data"][0]["manifest"]) == 64
    assert "--batch_size=8" in (tmp_path / "run" / "flags.txt").read_text().splitlines()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))

    # A run stopped at step 5 and started again goes on as if it had not been.
    parted = dataclasses.replace(settings, workdir=str(tmp_path / "parted"), steps=5)
    run.train(parted)
    with pytest.raises(errors.UserError, match="--steps=2: the run in .* is at step 5 already"):
        run.train(dataclasses.replace(parted, steps=2))
    with open(f"{parted.workdir}/metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 6, "loss": 0}\n{"st')  # what a killed process may leave
    run.train(dataclasses.replace(parted, steps=0))
    again = lines(parted)
    assert [line["step"] for line in again] == list(range(1, 9))
    assert [line["loss"] for line in again] == [line["loss"] for line in logged]  # bit for bit

    # A finished run is scored afterwards, once: its last scoring may have failed.
    scored = dataclasses.replace(
        full, workdir=parted.workdir, export_dir="", eval_every=0
    )  # fmt: skip
    for _ in range(2):
        result = run.train(scored)
    assert set(lines(parted)[-1]) == LOGGED | MONITORED and len(lines(parted)) == 8
    assert result.metrics["knn.top1"] == logged[-1]["knn.top1"]

    # The export, the workdir and the model in memory give the same embedding.
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    exported = loader.load_encoder(str(tmp_path / "exported"))
    from_workdir = loader.load_encoder(full.workdir)
    for name, width in (("features", 128), ("embeddings", 128)):
        ours, theirs = exported.frames(frames)[name], from_workdir.frames(frames)[name]
        assert ours.shape == (3, width)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"optimizer": "lamb"}, {"accumulate_steps": 4}])
def test_a_parted_run_ends_as_a_whole_one(settings, tmp_path, changes):
    """Every tensor of the last checkpoint, bit for bit."""

    def final(workdir, *stops):
        for steps in stops:
            run.train(dataclasses.replace(settings, workdir=str(workdir), steps=steps, **changes))
        reader = tf.train.load_checkpoint(checkpoint_files.newest(str(workdir)))
        names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
        return {name: reader.get_tensor(name) for name in sorted(names)}

    whole, parted = final(tmp_path / "whole", 3), final(tmp_path / "parted", 2, 3)
    assert whole.keys() == parted.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(parted[name], value, err_msg=name)


def test_other_settings_or_data_are_refused(settings, synthetic_shards):
    run.train(dataclasses.replace(settings, steps=1))
    with pytest.raises(errors.UserError, match="--temperature: 0.07 then, 0.1 now"):
        run.train(dataclasses.replace(settings, temperature=0.1))
    with pytest.raises(errors.UserError, match="the shards in .* are others"):
        run.train(dataclasses.replace(settings, data=synthetic_shards["test"]))


def test_contradictions_with_the_data_are_refused(settings):
    with pytest.raises(errors.UserError, match="--num_negatives=32 needs at least 33 videos"):
        run.train(dataclasses.replace(settings, num_negatives=32))
    with pytest.raises(errors.UserError, match="--batch_size"):
        run.train(dataclasses.replace(settings, batch_size=64, workdir=settings.workdir + "2"))


def test_a_refused_start_does_not_claim_the_workdir(settings):
    for name, value in (("num_negatives", 32), ("frame_gap", "-1"), ("decay_epochs", "5,3")):
        with pytest.raises(errors.UserError, match=f"--{name}"):
            run.train(dataclasses.replace(settings, **{name: value}))
    assert run.train(dataclasses.replace(settings, steps=1)).step == 1


def test_what_would_fail_at_the_end_is_refused_at_the_start(settings, tmp_path):
    (tmp_path / "file").write_text("")
    for changes, message in [
        ({"eval_train": "nowhere", "eval_test": "nowhere"}, "nowhere"),
        ({"eval_train": settings.data, "eval_test": settings.data}, "leakage"),
        ({"export_dir": str(tmp_path / "file")}, "--export_dir"),
        ({"workdir": str(tmp_path / "file" / "run")}, "--workdir"),
        ({"data": f"{settings.data},{settings.data}/"}, "--data.*twice"),
    ]:
        with pytest.raises(errors.UserError, match=message):
            run.train(dataclasses.replace(settings, **changes))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_loss_that_is_not_finite_stops_the_run(settings):
    """At the latest when it is logged; and no checkpoint holds what it made of the weights."""
    hot = dataclasses.replace(settings, learning_rate=1e30, checkpoint_every=1)
    with pytest.raises(errors.UserError, match="finite .*step .*lower --learning_rate"):
        run.train(hot)
    folder = checkpoint_files.folder_of(hot.workdir)
    for step in checkpoint_files.steps(folder):
        reader = tf.train.load_checkpoint(checkpoint_files.prefix_of(folder, step))
        for name in reader.get_variable_to_shape_map():
            value = reader.get_tensor(name)
            assert not isinstance(value, np.ndarray) or np.isfinite(value).all(), name


def test_the_monitor_scores_between_log_lines_and_in_tensorboard(settings, synthetic_shards):
    run.train(
        dataclasses.replace(
            settings,
            steps=5,
            log_every=5,
            eval_every=3,
            eval_train=synthetic_shards["train"],
            eval_test=synthetic_shards["test"],
        )
    )
    scores = {line["step"]: line["knn.top1"] for line in lines(settings) if "knn.top1" in line}
    assert list(scores) == [3, 5]
    shown, pictures = {}, set()
    for path in glob.glob(f"{settings.workdir}/tensorboard/events*"):
        for event in tf.compat.v1.train.summary_iterator(path):
            for value in event.summary.value:
                if value.tag == "knn.top1":
                    shown[event.step] = float(tf.make_ndarray(value.tensor))
                if value.metadata.plugin_data.plugin_name == "images":
                    pictures.add((value.tag, event.step))
    assert shown == pytest.approx(scores)
    # 32 videos in batches of 8 are 4 steps an epoch.
    assert pictures == {("views", 1), ("mined_negatives", 4)}
    with open(f"{settings.workdir}/tensorboard/projector_config.pbtxt", encoding="utf-8") as file:
        assert "projector.vectors.tsv" in file.read()


def test_unreadable_records_end_the_run_with_one_line_that_names_one(settings, tmp_path):
    data = tmp_path / "damaged"
    shutil.copytree(settings.data, data)
    for shard in data.glob("*.tfrecord"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 3 : len(content) // 2] = b"\0" * (
            len(content) // 2 - len(content) // 3
        )
        shard.write_bytes(content)
    with pytest.raises(errors.UserError, match="--max_bad_fraction=0 allows.*tfrecord") as failure:
        run.train(dataclasses.replace(settings, data=str(data), max_bad_fraction=0.0))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b'{"step": 1}\n{"step": 3}\n{"step": 5}\n{"ste', b'{"step": 1}\n{"step": 3}\n'),
        (
            b'{"step": 1}\nnull\n[]\n{}\n{"step": null}\n\n{"step": 3}\n',
            b'{"step": 1}\n{"step": 3}\n',
        ),
        (b'{"step": 3}', b'{"step": 3}\n'),  # only the end of the line was lost
        (b'{"step": 1}\n\0\0\0\0\xff', b'{"step": 1}\n'),  # as some file systems fill up
        (b"", b""),
    ],
)
def test_metrics_are_cut_back(tmp_path, content, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    metrics_log.cut_back(str(path), 3)
    assert path.read_bytes() == kept


@pytest.mark.slow
def test_an_export_of_a_half_precision_run_computes_in_float32(settings, tmp_path):
    """As the encoder that its workdir's float32 weights give, to the contract's 1e-5."""
    half = dataclasses.replace(
        settings, precision="mixed_float16", steps=1, export_dir=str(tmp_path / "half")
    )
    run.train(half)
    exported, trained = loader.load_encoder(half.export_dir), loader.load_encoder(half.workdir)
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    ours, theirs = exported.frames(frames), trained.frames(frames)
    for name in ("features", "embeddings"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
