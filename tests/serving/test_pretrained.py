"""Do an encoder's weights reach a backbone that trains on? From exports, workdirs and PyTorch files."""

import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
import torch_states

from tce_tf import compat, errors
from tce_tf.modeling import resnet, torch_file, torch_names
from tce_tf.serving import encoder_module, export, loader, pretrained
from tce_tf.training import torch_conversion

CONFIG = encoder_module.EncoderConfig("resnet18", embedding_width=8, image_size=32)


def backbone_of(module):
    return {
        key: np.asarray(compat.tf_variable(weight))
        for key, weight in torch_names.backbone_weights(module.layers[0]).items()
    }


def fresh(input_mode="rgb", backbone="resnet18"):
    built = resnet.ResNet(backbone, seed=9)
    built(tf.zeros([1, 32, 32, resnet.INPUT_CHANNELS[input_mode]]))
    return built


@pytest.fixture(scope="module", name="module")
def _module():
    module = loader.build_encoder(CONFIG, seed=1)
    # Statistics that differ from layer to layer, so that a mix-up shows.
    for i, variable in enumerate(module.variables):
        variable.assign(variable * 0.9 + 0.01 * i)
    return module


@pytest.fixture(scope="module", name="exported")
def _exported(module, tmp_path_factory):
    return os.path.dirname(export.export_encoder(module, str(tmp_path_factory.mktemp("a"))))


def test_an_export_gives_its_backbone_by_name(module, exported):
    config, weights = pretrained.read_backbone(exported, CONFIG)
    assert config == CONFIG
    expected = backbone_of(module)
    assert weights.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(weights[key], array, err_msg=key)
    backbone = fresh()
    pretrained.assign_backbone(backbone, weights, input_mode="rgb", source="a")
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_allclose(backbone(images), module.layers[0](images), rtol=0, atol=1e-5)


def test_an_rgb_convolution_is_inflated_by_its_mean(exported):
    _, weights = pretrained.read_backbone(exported, CONFIG)
    backbone = fresh("stack_of_differences")
    pretrained.assign_backbone(backbone, weights, input_mode="stack_of_differences", source="a")
    kernel = np.asarray(compat.tf_variable(backbone.conv1.kernel))
    assert kernel.shape == (7, 7, 15, 64)
    rgb = weights["backbone.conv1.weight"]
    for channel in range(15):
        np.testing.assert_allclose(kernel[:, :, channel], rgb.mean(axis=2), rtol=1e-6)


def test_misfits_are_refused(exported):
    _, weights = pretrained.read_backbone(exported, CONFIG)
    with pytest.raises(errors.UserError, match="a: its weights are not those of resnet34"):
        pretrained.assign_backbone(
            fresh(backbone="resnet34"), weights, input_mode="rgb", source="a"
        )
    stack = dict(weights) | {"backbone.conv1.weight": np.zeros((7, 7, 15, 64), np.float32)}
    with pytest.raises(errors.UserError, match="use --input_mode=stack_of_differences"):
        pretrained.assign_backbone(fresh(), stack, input_mode="rgb", source="a")


def test_an_export_without_names_is_refused(exported, tmp_path):
    with pytest.raises(errors.UserError, match="neither a SavedModel folder, nor a training"):
        pretrained.read_backbone(str(tmp_path), CONFIG)
    tf.saved_model.save(tf.Module(), str(tmp_path / "alien"))
    with pytest.raises(errors.UserError, match="alien is a SavedModel, but none that export"):
        pretrained.read_backbone(str(tmp_path / "alien"), CONFIG)


def test_a_workdir_and_a_pth_give_the_same(tmp_path, monkeypatch, caplog):
    state = torch_states.torchvision("resnet18")
    torch_conversion.convert({"state_dict": state}, "a.pth", workdir=str(tmp_path / "run"))
    _, from_workdir = pretrained.read_backbone(str(tmp_path / "run"), CONFIG)
    # PyTorch is optional: what it would have read stands in for it.
    (tmp_path / "imagenet.pth").write_bytes(b"weights")
    monkeypatch.setattr(torch_file, "load", lambda path: {"state_dict": state})
    wanted = dataclasses.replace(CONFIG, image_size=96, resize_mode="squash")
    config, from_file = pretrained.read_backbone(str(tmp_path / "imagenet.pth"), wanted)
    assert (config.image_size, config.resize_mode, config.backbone) == (96, "squash", "resnet18")
    assert "no projection head: embeddings are of random weights" in caplog.text
    assert from_file.keys() == from_workdir.keys()
    for key, array in from_file.items():
        np.testing.assert_array_equal(array, from_workdir[key])
        np.testing.assert_array_equal(
            array, torch_names.from_torch_layout(state[key.removeprefix("backbone.")])
        )
    with open(tmp_path / "run" / "config.json", encoding="utf-8") as file:
        assert json.load(file)["settings"]["backbone"] == "resnet18"


@pytest.mark.parametrize(
    ("state", "mode"),
    [
        (torch_states.torchvision("resnet18"), "crop"),
        (torch_states.pretraining("resnet18"), "squash"),
    ],
    ids=["torchvision", "tce"],
)
def test_a_pth_is_seen_as_it_was_trained(state, mode, tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(b"weights")
    monkeypatch.setattr(torch_file, "load", lambda path: {"state_dict": state})
    auto = dataclasses.replace(CONFIG, resize_mode="auto")
    config, _ = pretrained.read_backbone(str(tmp_path / "a.pth"), auto)
    assert config.resize_mode == mode
    assert loader.load_encoder("none", fallback=auto).config.resize_mode == "crop"
