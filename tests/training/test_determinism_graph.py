"""Is there a sum in a training step whose order may vary? Its graphs are read for AddN of three."""

import itertools

import pytest
import small_network
import tensorflow as tf

from tce_tf import config
from tce_tf.data import shard_reader
from tce_tf.modeling import resnet
from tce_tf.training import determinism, finetuning, setup

WAYS = [
    dict(zip(("loss", "mining", "jit", "rotation_weight"), values, strict=True))
    for values in itertools.product(("nce", "infonce"), (True, False), ("auto", "off"), (1.0, 0.0))
] + [
    {"optimizer": "lamb"},
    {"optimizer": "adamw", "accumulate_steps": 2},
    {"precision": "mixed_bfloat16"},
]
FINETUNE_WAYS = [
    {},
    {"input_mode": "stack_of_differences", "dropout": 0.5},
    {"freeze_backbone": True, "augment": True},
    {"optimizer": "lamb", "jit": "off"},
]


@pytest.fixture(autouse=True)
def _small_network(monkeypatch):
    monkeypatch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)


def _name(way):
    return "-".join(map(str, way.values())) or "default"


def _sums(model, *inputs) -> dict[str, int]:
    """Name -> number of terms of the AddN in a model's training step."""
    step = tf.function(model.train_step).get_concrete_function(*inputs)
    graph = step.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return {node.name: node.attr["N"].i for node in nodes if node.op == "AddN"}


@pytest.mark.parametrize("way", WAYS, ids=_name)
def test_no_gradient_of_pretraining_is_a_sum_of_three(way, synthetic_shards, tmp_path):
    settings = config.TrainConfig(
        data=synthetic_shards["train"], workdir=str(tmp_path), image_size=32, batch_size=8,
        num_negatives=8, epochs=1, decay_epochs="", **way,
    )  # fmt: skip
    reader = shard_reader.ShardReader([settings.data])
    with determinism.deterministic("on"):
        inputs = setup.make_input(settings, reader)
        model = setup.build_model(settings, reader, total_steps=inputs.steps_per_epoch)
        schedule = setup.make_schedule(settings, inputs.steps_per_epoch)
        setup.make_optimizer(settings, schedule, model)
        sums = _sums(model, inputs.element_spec)
    assert sums  # gradients are added, two at a time
    assert {name: count for name, count in sums.items() if count > 2} == {}


@pytest.mark.parametrize("way", FINETUNE_WAYS, ids=_name)
def test_no_gradient_of_finetuning_is_a_sum_of_three(way, synthetic_shards, tmp_path):
    settings = config.FinetuneConfig(
        train=synthetic_shards["train"], test=synthetic_shards["test"], workdir=str(tmp_path),
        encoder="none", image_size=32, batch_size=8, epochs=1, decay_epochs="", **way,
    )  # fmt: skip
    reader = shard_reader.ShardReader([settings.train])
    with determinism.deterministic("on"):
        described, _ = finetuning._starting_point(settings, reader.class_names)
        inputs = finetuning._make_input(settings, described, reader)
        model = finetuning.build_model(settings, described)
        schedule = setup.make_schedule(settings, inputs.steps_per_epoch)
        setup.make_optimizer(settings, schedule, model)
        sums = _sums(model, inputs.element_spec)
    assert {name: count for name, count in sums.items() if count > 2} == {}
