"""Is every published layout recognised, and every key of a file accounted for? Without PyTorch."""

import numpy as np
import pytest
import torch_states

from tce_tf import errors
from tce_tf.modeling import torch_weights

BACKBONES = list(torch_states.BLOCKS)


def hollow(shapes):
    """Arrays of these shapes that take no memory."""
    return {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}


def pretraining(backbone="resnet18", width=16):
    return hollow(torch_states.pretraining_shapes(backbone, width))


def bare(backbone="resnet18", channels=3, classes=1000):
    shapes = torch_states.resnet_shapes(backbone, channels)
    return hollow(shapes | torch_states.linear("fc", torch_states.features_of(backbone), classes))


def prefixed(state):
    return {f"backbone.{k}" if not k.startswith("fc.") else k: a for k, a in state.items()}


def expected(state):
    return {key: a.shape for key, a in torch_states.weights_only(state).items()}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_layout_gets_the_same_names(backbone):
    first = bare(backbone, 15, 101)
    renamed = {f"{k.split('.')[0]}_custom.{k.split('.')[1]}" if k.startswith(("conv1.", "fc.")) else k: a
               for k, a in first.items()}  # fmt: skip
    for state, names, heads, mode in (
        (pretraining(backbone), pretraining(backbone), {"projection", "rotation"}, "rgb"),
        (prefixed(bare(backbone)), prefixed(bare(backbone)), {"classifier"}, "rgb"),
        (bare(backbone), prefixed(bare(backbone)), {"classifier"}, "rgb"),
        (renamed, prefixed(first), {"classifier"}, "stack_of_differences"),
    ):
        for given in (state, torch_states.parallel(state)):
            weights = torch_weights.recognise(given)
            assert (weights.backbone, weights.heads) == (backbone, heads)
            assert weights.input_mode == mode
            assert set(weights.arrays) == set(expected(names))
            weights.check(expected(names))
            # Each key of the file is either a weight or a counter, and none is both.
            assert sorted([*weights.file_keys.values(), *weights.counters]) == sorted(given)
            assert len(weights.counters) == sum("num_batches_tracked" in key for key in given)
            for key, array in weights.arrays.items():
                assert array is given[weights.file_keys[key]]


def test_fc_of_the_first_version_is_its_projection():
    weights = torch_weights.recognise(bare(classes=128))
    assert weights.heads == {"projection"} and weights.width("fc_contrastive.weight", 0) == 128
    assert torch_weights.recognise(bare(classes=129)).heads == {"classifier"}
    # Behind `backbone.` it is a classifier of any width.
    assert torch_weights.recognise(prefixed(bare(classes=128))).heads == {"classifier"}


def test_files_without_counters_or_heads():
    state = {k: a for k, a in bare().items() if not k.startswith("fc.") and "num_ba" not in k}
    weights = torch_weights.recognise(state)
    assert weights.heads == set() and weights.counters == ()
    assert weights.width("fc_contrastive.weight", 128) == 128


def failure(state, names=None, backbone=None):
    with pytest.raises(errors.UserError) as caught:
        torch_weights.recognise(state, backbone).check(expected(names or state))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_unknown_and_missing_keys_are_listed_and_shortened():
    state = pretraining()
    broken = state | {f"extra.{i}": np.zeros(1) for i in range(7)}
    del broken["fc_rotation_2.bias"]
    message = failure(broken, state)
    assert "7 unknown keys: extra.0, extra.1, extra.2, extra.3, extra.4, 2 more" in message
    assert "1 missing key: fc_rotation_2.bias" in message

    # In the file's own names.
    missing = bare()
    del missing["layer3.1.bn2.weight"]
    missing["layer3.1.bn2.wieght"] = np.zeros(256)
    message = failure(missing, prefixed(bare()))
    assert message == "1 unknown key: layer3.1.bn2.wieght; 1 missing key: layer3.1.bn2.weight"


def test_a_counter_without_its_norm_is_unknown():
    assert "ghost.num_batches_tracked" in failure(
        pretraining() | {"ghost.num_batches_tracked": np.array(1)}, pretraining()
    )


def test_mixed_prefixes_and_doubles():
    state = torch_states.parallel(pretraining())
    state["fc_contrastive.bias"] = state.pop("module.fc_contrastive.bias")
    with pytest.raises(errors.UserError, match="no resnet18"):
        torch_weights.recognise(state)
    double = bare() | {"conv1_custom.weight": np.zeros((64, 3, 7, 7), np.float32)}
    assert "conv1.weight and conv1_custom.weight are the same weight" in failure(double)


def test_misfits_name_the_key_and_both_shapes():
    state = pretraining()
    wide = state | {"backbone.layer2.0.conv1.weight": np.zeros((256, 64, 3, 3), np.float32)}
    message = failure(wide, state)
    assert "backbone.layer2.0.conv1.weight has shape [256, 64, 3, 3]" in message
    assert "wants [128, 64, 3, 3]" in message
    key = "fc_contrastive.bias"
    assert f"{key} holds NaN" in failure(state | {key: np.full(16, np.nan, np.float32)}, state)
    assert f"{key} is no float" in failure(state | {key: np.zeros(16, np.int64)}, state)
    assert f"{key} has shape []" in failure(state | {key: "text"}, state)
    with pytest.raises(errors.UserError, match=r"conv1.weight \[64, 20, 7, 7\] takes 20 channels"):
        _ = torch_weights.recognise(bare(channels=20)).input_mode


def test_the_backbone_that_the_user_names():
    assert torch_weights.recognise(bare("resnet34"), "resnet34").backbone == "resnet34"
    for found, named in (("resnet34", "resnet50"), ("resnet50", "resnet34")):
        message = failure(bare(found), backbone=named)
        assert message == f"--backbone={named}, but its keys are those of {found}"
    assert "builds a ResNet-50 under the name" in failure(bare("resnet50"), backbone="resnet101")
    # No ResNet is complete here: what lacks is told for the one that was named.
    cut = {k: a for k, a in bare().items() if not k.startswith("layer4.1.")}
    assert "stages of 2, 2, 2, 1 basic blocks" in failure(cut)
    assert "10 missing keys: layer4.1.conv1.weight" in failure(cut, prefixed(bare()), "resnet18")


def test_what_is_no_resnet():
    message = failure({"weight": np.zeros(3), "bias": np.zeros(3)})
    assert "no resnet18, resnet34" in message and "weight, bias" in message


def test_the_state_dict_in_a_checkpoint():
    state = {"a": np.zeros(2)}
    assert torch_weights.find_state_dict(state) == (state, ())
    for name in ("state_dict", "model"):
        found, left = torch_weights.find_state_dict({"epoch": 3, name: state, "optimizer": {}})
        assert found == state and left == ("epoch", "optimizer")
    for contents, words in (
        ({"epoch": 3}, "holds no state dict: there is epoch"),
        ({}, "there is nothing"),
        ({"state_dict": {}}, "no state dict"),
        ([1], "holds a list, not a state dict"),
    ):
        with pytest.raises(errors.UserError, match=words):
            torch_weights.find_state_dict(contents)
