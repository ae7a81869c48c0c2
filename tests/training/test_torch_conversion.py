"""Do published weights survive the whole route? Golden numbers out, identical arrays back."""

import dataclasses
import json
import os

import golden_recipe
import numpy as np
import pytest
import tensorflow as tf
import torch_states

from tce_tf import config, errors
from tce_tf.data import augmentation
from tce_tf.modeling import checkpoint_files, tce_model, torch_names
from tce_tf.serving import loader, torch_network
from tce_tf.training import checkpoints, optimizers, provenance, run, schedules, torch_conversion

BACKBONES = list(torch_states.BLOCKS)


def relative_error(actual, expected):
    return np.max(np.abs(np.asarray(actual) - expected)) / np.max(np.abs(expected))


def golden_inputs(backbone):
    """Golden arrays and the normalised images they belong to, [B, H, W, 3]."""
    golden = golden_recipe.load(f"forward_{backbone}")
    batch, size, seed = (int(golden[k]) for k in ("batch", "size", "seed"))
    return golden, tf.constant(golden_recipe.images("forward", batch, size, seed))


def raw(images):
    """Images that the module's own normalisation turns into these."""
    one, zero = (augmentation.normalize(tf.fill([1, 1, 1, 3], x)) for x in (1.0, 0.0))
    return (images - zero) / (one - zero)


def convert(contents, tmp_path, name="workdir", **kwargs):
    workdir = str(tmp_path / name)
    made = torch_conversion.convert(contents, f"{name}.pth", workdir=workdir, **kwargs)
    assert made[0] == workdir
    return workdir


def projected(module, features):
    """Embeddings, from the 32-wide projection's variables: no signature takes normalised images."""
    kernel, bias = (v for v in module.variables if v.shape[-1] == 32)
    return tf.math.l2_normalize(features @ kernel + bias, axis=-1)


@pytest.mark.parametrize(
    "backbone",
    [
        # Their layers are held against the golden files by test_golden.py.
        pytest.param(name, marks=pytest.mark.slow) if name in ("resnet50", "resnet101") else name
        for name in BACKBONES
    ],
)
def test_pretrained_weights_give_the_golden_outputs_and_come_back(backbone, tmp_path):
    golden, images = golden_inputs(backbone)
    state = torch_states.pretraining(backbone, int(golden["embedding_dim"]), int(golden["seed"]))
    contents = {"epoch": 50, "state_dict": torch_states.parallel(state), "optimizer": {"lr": 1}}
    # A SavedModel of a deep network takes long to write; its way out is the same.
    exports = str(tmp_path / "exported") if backbone in ("resnet18", "resnet50") else ""
    workdir = convert(contents, tmp_path, export_dir=exports)

    encoders = [loader.load_encoder(workdir)]
    assert encoders[0].config.backbone == backbone and encoders[0].config.resize_mode == "squash"
    if exports:
        encoders.append(loader.load_encoder(exports))
    for encoder in encoders:
        features = encoder(raw(images))
        assert relative_error(features, golden["features_eval"]) < 1e-5
        assert relative_error(projected(encoder, features), golden["embeddings_eval"]) < 1e-5

    back = torch_conversion.torch_state(workdir)
    assert set(back) == set(state)
    for key, array in back.items():
        assert array.shape == state[key].shape and array.flags.c_contiguous, key
        if key.endswith("num_batches_tracked"):
            assert array.dtype == np.int64
        else:
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, state[key])


def test_the_rotation_head_is_kept(tmp_path):
    golden, images = golden_inputs("resnet18")
    workdir = convert(torch_states.pretraining("resnet18", 32), tmp_path)
    network = torch_network.build_network(loader.workdir_config(workdir))
    loader.restore_layers(checkpoint_files.newest(workdir), **network.layers)
    logits = network.rotation(network.backbone(images))
    assert relative_error(logits, golden["rotation_logits_eval"]) < 1e-5


def test_fine_tuned_weights_keep_their_classifier(tmp_path):
    _, images = golden_inputs("resnet18")
    golden = golden_recipe.load("finetune_resnet18")
    state = torch_states.finetuning("resnet18", int(golden["num_classes"]))
    workdir = convert({"state_dict": state, "best_prec1": 60.0}, tmp_path)
    conversion = provenance.read_config(workdir)["conversion"]
    assert conversion["num_classes"] == 11
    assert conversion["fresh_heads"] == ["projection", "rotation"]

    network = torch_network.build_network(loader.workdir_config(workdir), 11)
    loader.restore_layers(checkpoint_files.newest(workdir), **network.layers)
    assert (
        relative_error(network.classifier(network.backbone(images)), golden["logits_eval"]) < 1e-5
    )
    back = torch_conversion.torch_state(workdir)
    assert set(back) == set(state)
    for key, array in torch_states.weights_only(state).items():
        np.testing.assert_array_equal(back[key], array)


def test_a_file_with_every_head_loses_none(tmp_path):
    state = torch_states.pretraining("resnet18", 16) | torch_states.finetuning("resnet18", 5)
    back = torch_conversion.torch_state(convert(state, tmp_path))
    assert set(back) == set(state)
    for key in ("fc_contrastive.weight", "bn_rotation_2.running_var", "fc.weight"):
        np.testing.assert_array_equal(back[key], state[key])


def test_torchvision_weights_become_an_encoder_with_a_seeded_projection(tmp_path):
    golden, images = golden_inputs("resnet50")
    state = torch_states.torchvision("resnet50")
    first, second = (
        loader.load_encoder(convert(state, tmp_path, name)) for name in ("first", "second")
    )
    assert first.config.resize_mode == "crop" and first.config.embedding_width == 128
    assert relative_error(first(raw(images)), golden["features_eval"]) < 1e-5
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    embeddings = first.frames(frames)["embeddings"]
    np.testing.assert_array_equal(embeddings, second.frames(frames)["embeddings"])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    back = torch_conversion.torch_state(str(tmp_path / "first"))
    np.testing.assert_array_equal(back["fc.weight"], state["fc.weight"])


def test_first_version_with_15_channels(tmp_path):
    golden, images = golden_inputs("resnet18")
    state = torch_states.first_version("resnet18")
    contents = {"state_dict": torch_states.parallel(state)}
    workdir, exported = torch_conversion.convert(
        contents, "a.pth", workdir=str(tmp_path / "run"), export_dir=str(tmp_path / "exported")
    )
    assert loader.workdir_config(workdir).input_mode == "stack_of_differences"
    assert loader.encoder_config(exported).input_mode == "stack_of_differences"
    # Six frames whose every difference is the golden image, which then fills all 15 channels.
    stack = raw(images[:, tf.newaxis] * -tf.range(6.0)[:, tf.newaxis, tf.newaxis, tf.newaxis])
    for encoder in (loader.load_encoder(workdir), loader.load_encoder(exported)):
        assert relative_error(encoder(stack), golden["features_eval"]) < 1e-5
    back = torch_conversion.torch_state(workdir)
    np.testing.assert_array_equal(back["backbone.conv1.weight"], state["conv1_custom.weight"])
    np.testing.assert_array_equal(back["fc.bias"], state["fc_custom.bias"])


def test_what_was_left_and_what_is_fresh_is_logged(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    state = torch_states.finetuning("resnet18")
    contents = {"state_dict": state, "optimizer": {}, "best_prec1": 60.0}
    convert(contents, tmp_path)
    assert "resnet18 on rgb input, 102 weights read" in caplog.text
    assert "left: 20 batch counters (num_batches_tracked)" in caplog.text
    assert "left, beside the weights: optimizer, best_prec1" in caplog.text
    assert "no projection head in the file: it gets random weights (seed 0)" in caplog.text
    assert "no rotation head in the file" in caplog.text
    assert "classifier of 11 classes: kept in the workdir" in caplog.text
    assert "taken for the projection" not in caplog.text
    convert(torch_states.torchvision("resnet18", 128), tmp_path, "first_version")
    assert "its fc of 128 is taken for the projection head of TCE's first version" in caplog.text


def test_refusals_name_the_file_and_leave_nothing(tmp_path):
    state = torch_states.pretraining("resnet18", 16)
    broken = state | {"backbone.conv1.weight": np.zeros((64, 3, 5, 5), np.float32)}
    del broken["backbone.bn1.bias"]
    for contents, words in (
        (broken, "x.pth: 1 missing key: backbone.bn1.bias"),
        ({"epoch": 1}, "x.pth: holds no state dict"),
        (state | {"fc_contrastive.weight": np.float32(1)}, "fc_contrastive.weight has shape "),
        (
            broken | {"backbone.bn1.bias": np.zeros(64, np.float32)},
            r"\[64, 3, 5, 5\].*\[64, 3, 7, 7\]",
        ),
    ):
        with pytest.raises(errors.UserError, match=words):
            torch_conversion.convert(contents, "x.pth", workdir=str(tmp_path / "no"))
    assert not os.listdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(errors.UserError, match="used exists and is not empty"):
        torch_conversion.convert(state, "x.pth", workdir=str(tmp_path / "used"))
    (tmp_path / "empty").mkdir()
    convert(state, tmp_path, "empty")
    assert sorted(os.listdir(tmp_path)) == ["empty", "used"]


def test_training_does_not_go_on_in_a_converted_workdir(synthetic_shards, tmp_path):
    workdir = convert(torch_states.pretraining("resnet18", 128), tmp_path, image_size=32)
    before = sorted(os.listdir(workdir))
    settings = config.TrainConfig(
        data=synthetic_shards["train"], workdir=workdir, image_size=32, resize_mode="squash",
        num_negatives=8, batch_size=4, steps=1,
    )  # fmt: skip
    with pytest.raises(errors.UserError, match="holds weights converted from .*workdir.pth"):
        run.train(settings)
    assert sorted(set(os.listdir(workdir)) - {".lock"}) == before


def test_a_training_run_comes_out_as_pretrainnet(tmp_path):
    settings = config.TrainConfig(image_size=32, embedding_width=16)
    model = tce_model.TCEModel(
        num_videos=4, embedding_width=16, objective=tce_model.Objective(num_negatives=1), seed=3
    )
    model.initialize(32)
    optimizer = optimizers.SGD(schedules.Schedule(0.01))
    optimizer.build(model.optimized_weights)
    checkpoints.Checkpoints(str(tmp_path), model, optimizer).save(5)
    content = {"settings": dataclasses.asdict(settings), "versions": {}, "data": []}
    (tmp_path / "config.json").write_text(json.dumps(content))

    state = torch_conversion.torch_state(str(tmp_path))
    assert set(state) == set(torch_states.pretraining_shapes("resnet18", 16))
    for key, weight in torch_names.pretraining_weights(model).items():
        np.testing.assert_array_equal(state[key], torch_names.to_torch_layout(np.asarray(weight)))

    workdir = convert(state, tmp_path, "converted")
    for key, array in torch_conversion.torch_state(workdir).items():
        np.testing.assert_array_equal(array, state[key])


def test_reverse_wants_a_workdir(tmp_path):
    with pytest.raises(errors.UserError, match="not a training workdir"):
        torch_conversion.torch_state(str(tmp_path))
    content = {"settings": dataclasses.asdict(config.TrainConfig()), "versions": {}, "data": []}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(errors.UserError, match="no checkpoint yet"):
        torch_conversion.torch_state(str(tmp_path))
