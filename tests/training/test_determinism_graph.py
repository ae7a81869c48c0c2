"""Is there a sum in a training step whose order may vary? Its graphs are read for AddN of three."""

import itertools

import pytest
import small_train
import tensorflow as tf

from tce_tf import config
from tce_tf.data import shard_reader
from tce_tf.modeling import resnet
from tce_tf.training import determinism, setup

WAYS = [
    dict(zip(("loss", "mining", "jit", "rotation_weight"), values, strict=True))
    for values in itertools.product(("nce", "infonce"), (True, False), ("auto", "off"), (1.0, 0.0))
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_no_gradient_is_a_sum_of_three(way, synthetic_shards, tmp_path, monkeypatch):
    monkeypatch.setitem(resnet.STAGES, "resnet18", small_train.SMALL)
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
        step = tf.function(model.train_step).get_concrete_function(inputs.element_spec)
    graph = step.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    sums = {node.name: node.attr["N"].i for node in nodes if node.op == "AddN"}
    assert sums  # gradients are added, two at a time
    assert {name: count for name, count in sums.items() if count > 2} == {}
