"""Does fine-tuning go from settings to results? Start, score, best, resume, export, refusals."""

import dataclasses
import json

import numpy as np
import pytest
import small_network
import tensorflow as tf

from tce_tf import compat, config, errors
from tce_tf.data import shard_reader, video_frames
from tce_tf.modeling import checkpoint_files, resnet
from tce_tf.serving import encoder_module, export, loader, pretrained
from tce_tf.training import finetuning

ENCODER = encoder_module.EncoderConfig("resnet18", embedding_width=8, image_size=32)


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Two blocks: what goes on around the network is tested, and each run is traced anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)
        yield


@pytest.fixture(scope="module", name="encoder")
def _encoder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("encoder"))
    export.export_encoder(loader.build_encoder(ENCODER, seed=3), folder)
    return folder


@pytest.fixture(name="settings")
def _settings(synthetic_shards, encoder, tmp_path):
    return config.FinetuneConfig(
        train=synthetic_shards["train"],
        test=synthetic_shards["test"],
        encoder=encoder,
        workdir=str(tmp_path / "run"),
        batch_size=8,
        epochs=3,
        learning_rate=0.01,
        decay_epochs="2",
        test_frames=4,
        log_every=1,
        eval_every=4,
    )


def lines(workdir):
    with open(f"{workdir}/metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def checkpoint(path):
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
            if not name.startswith(("_CHECKPOINTABLE", "save_counter"))}  # fmt: skip


def test_from_encoder_to_results_and_export(settings, encoder, tmp_path):
    settings = dataclasses.replace(settings, export_dir=str(tmp_path / "out"))
    result = finetuning.finetune(settings)
    assert result.step == 12  # 32 videos, 3 epochs of 4 steps
    logged = lines(settings.workdir)
    assert [line["step"] for line in logged] == list(range(1, 13))
    assert [line["step"] for line in logged if "test.top1" in line] == [4, 8, 12]
    assert [line["learning_rate"] for line in logged] == pytest.approx([0.01] * 8 + [0.001] * 4)
    with open(f"{settings.workdir}/results.json", encoding="utf-8") as file:
        saved = json.load(file)
    assert saved["top1"] == result.results["top1"] == logged[-1]["test.top1"]

    # The scores are those of the exported classifier, summed over the frames by hand.
    loaded = tf.saved_model.load(result.export_path)
    reader = shard_reader.ShardReader([settings.test])
    logits = [
        loaded.frames(video["frames"])["logits"].numpy().sum(axis=0)
        for video in video_frames.frames_dataset(reader, frames_per_video=4)
    ]
    predicted = np.argmax(logits, axis=1)
    assert saved["top1"] == np.mean(predicted == reader.labels)
    in_five = [label in np.argsort(-row)[:5] for row, label in zip(logits, reader.labels)]  # noqa: B905
    assert saved["top5"] == np.mean(in_five)
    confusion = np.array(saved["confusion"])
    assert confusion.sum() == 16 and np.trace(confusion) == np.sum(predicted == reader.labels)
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(reader.labels, minlength=8))
    assert list(saved["per_class"]) == [
        name for i, name in enumerate(reader.class_names) if i in reader.labels
    ]

    # The best checkpoint is that of the best line, and is there.
    scored = {line["step"]: line["test.top1"] for line in logged if "test.top1" in line}
    best = min(step for step, top1 in scored.items() if top1 == max(scored.values()))
    assert saved["best"]["step"] == best and saved["best"]["top1"] == scored[best]
    assert tf.io.gfile.exists(f"{settings.workdir}/{saved['best']['checkpoint']}.index")


def test_results_name_the_weights_that_the_run_began_with(settings, tmp_path):
    encoder = str(tmp_path / "encoder")
    export.export_encoder(loader.build_encoder(ENCODER, seed=3), encoder)
    settings = dataclasses.replace(settings, encoder=encoder, steps=1, test_frames=1)
    begun = finetuning.finetune(settings).results["encoder_weights"]
    assert begun == pretrained.digest(pretrained.read_backbone(encoder, ENCODER)[1])
    export.export_encoder(loader.build_encoder(ENCODER, seed=4), encoder)
    later = finetuning.finetune(dataclasses.replace(settings, steps=2)).results
    assert later["step"] == 2 and later["encoder_weights"] == begun
    assert pretrained.digest(pretrained.read_backbone(encoder, ENCODER)[1]) != begun


def test_it_starts_from_the_encoder_and_scratch_does_not(settings, encoder):
    kernel = loader.build_encoder(ENCODER, seed=3).variables[0].numpy()
    for name, same in ((encoder, True), ("none", False)):
        given = dataclasses.replace(
            settings, encoder=name, image_size=32, learning_rate=1e-12, steps=1,
            workdir=f"{settings.workdir}-{same}",
        )  # fmt: skip
        finetuning.finetune(given)
        backbone, _ = encoder_module.build_layers(ENCODER)
        loader.restore_layers(f"{given.workdir}/checkpoints/ckpt-1", backbone=backbone)
        first = np.asarray(compat.tf_variable(backbone.conv1.kernel))
        assert np.allclose(first, kernel, atol=1e-6) == same


@pytest.mark.parametrize(
    ("precision", "jit", "tolerance"),
    [
        ("mixed_bfloat16", "on", 0.05),
        pytest.param("mixed_float16", "off", 0.01, marks=pytest.mark.slow),
    ],
)
def test_other_precisions_train_like_float32(precision, jit, tolerance, settings):
    settings = dataclasses.replace(settings, encoder="none", image_size=32)
    values = []
    for name, way in (("plain", {"jit": "off"}), ("way", {"precision": precision, "jit": jit})):
        given = dataclasses.replace(
            settings, workdir=f"{settings.workdir}-{name}", augment=True, steps=1, **way
        )
        finetuning.finetune(given)
        values.append(lines(given.workdir)[0]["loss"])
    assert values[1] == pytest.approx(values[0], rel=tolerance) and values[1] != values[0]


@pytest.mark.parametrize(
    "mode", ["stack_of_differences", pytest.param("rgb", marks=pytest.mark.slow)]
)
def test_a_resumed_run_equals_one_never_stopped(settings, mode):
    settings = dataclasses.replace(settings, input_mode=mode, dropout=0.5, augment=True, epochs=2)
    finetuning.finetune(settings)
    parts = dataclasses.replace(settings, workdir=f"{settings.workdir}-parts")
    finetuning.finetune(dataclasses.replace(parts, steps=3, checkpoint_every=3))
    finetuning.finetune(parts)
    whole, pieces = lines(settings.workdir), lines(parts.workdir)
    assert [line["loss"] for line in whole] == [line["loss"] for line in pieces]
    first = checkpoint(f"{settings.workdir}/checkpoints/ckpt-8")
    second = checkpoint(f"{parts.workdir}/checkpoints/ckpt-8")
    assert first.keys() == second.keys() and len(first) > 40
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_a_linear_probe_moves_the_linear_layer_alone(settings, encoder):
    finetuning.finetune(dataclasses.replace(settings, freeze_backbone=True, steps=4))
    backbone, _ = encoder_module.build_layers(ENCODER)
    loader.restore_layers(f"{settings.workdir}/checkpoints/ckpt-4", backbone=backbone)
    expected, _ = loader.build_encoder(ENCODER, seed=3).layers
    assert len(backbone.weights) == 30
    for ours, theirs in zip(backbone.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(compat.tf_variable(ours), compat.tf_variable(theirs))


def test_it_learns(settings):
    """Few steps on clips whose classes differ in looks: the training loss falls by a third."""
    settings = dataclasses.replace(settings, epochs=8, decay_epochs="", optimizer="adamw",
                                   learning_rate=0.001, eval_every=0)  # fmt: skip
    finetuning.finetune(settings)
    losses = [line["loss"] for line in lines(settings.workdir)]
    assert np.mean(losses[-4:]) < 0.67 * np.mean(losses[:4]), losses


@pytest.mark.slow
def test_two_replicas_score_too(settings):
    result = finetuning.finetune(
        dataclasses.replace(settings, strategy="mirrored", steps=4, sync_batch_norm=True)
    )
    assert result.step == 4 and 0 <= result.results["top1"] <= 1


def test_refusals(settings, synthetic_shards, tmp_path):
    def refused(message, **changes):
        with pytest.raises(errors.UserError, match=message):
            finetuning.finetune(dataclasses.replace(settings, **changes))

    refused("leakage: .* groups are in both", test=synthetic_shards["train"])
    refused("neither a SavedModel folder", encoder=str(tmp_path))
    refused("batch_size=33 is more than the 32 videos", batch_size=33)
    assert not (tmp_path / "run" / "config.json").exists()
    finetuning.finetune(dataclasses.replace(settings, steps=1))
    refused("--num_segments: 3 then, 2 now", num_segments=2)
    with pytest.raises(errors.UserError, match="fine-tuned classifier"):
        loader.load_encoder(settings.workdir)


def test_the_best_of_every_step_to_resume_from_stays(settings, tmp_path):
    """Bests of 2, 5, 6 and a lost future; runs may be resumed from the checkpoints of 4 and 8."""
    scores = iter([0.2, 0.3, 0.4, 0.5])
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "best").mkdir()
    (tmp_path / "run" / "best" / "ckpt-30.index").write_bytes(b"")
    test = shard_reader.ShardReader([settings.test])
    config_of_run = dataclasses.replace(settings, encoder="none", image_size=32)
    start, _ = finetuning._starting_point(config_of_run, test.class_names)
    model = finetuning.build_model(config_of_run, start)
    monitor = finetuning._Monitor(config_of_run, start, test, model, start_step=0)
    kept = []
    for step in (2, 5, 6, 9):
        monitor.scores_at = lambda step: (
            {"test.top1": next(scores), "test.top5": 1.0}, None
        )  # fmt: skip
        monitor(step)
        kept.append(checkpoint_files.steps(str(tmp_path / "run" / "best")))
        if step in (2, 6):
            for saved in {2: (4,), 6: (4, 8)}[step]:
                path = tmp_path / "run" / "checkpoints" / f"ckpt-{saved}.index"
                path.write_bytes(b"")
    assert kept == [[2], [2, 5], [2, 5, 6], [2, 5, 6, 9]]
    (tmp_path / "run" / "checkpoints" / "ckpt-4.index").unlink()
    monitor.scores_at = lambda step: ({"test.top1": 0.6, "test.top5": 1.0}, None)
    monitor(10)
    assert checkpoint_files.steps(str(tmp_path / "run" / "best")) == [6, 9, 10]
