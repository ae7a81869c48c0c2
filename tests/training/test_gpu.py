"""Does training use the GPUs as it should? Run by `pytest --gpu`, where there is one."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tce_tf import compat, config
from tce_tf.data import shard_reader
from tce_tf.training import run, setup, strategies

pytestmark = pytest.mark.gpu


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
        learning_rate=0.001,
    )


def losses(settings):
    run.train(settings)
    with open(f"{settings.workdir}/metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line)["loss"] for line in file]


def test_bank_and_weights_are_on_the_gpu(settings):
    reader = shard_reader.ShardReader([settings.data])
    with strategies.make_strategy("one_device").scope():
        model = setup.build_model(settings, reader, total_steps=8)
    for weight in (model.bank.embeddings, model.normalizer, *model.trainable_weights):
        assert "GPU" in compat.tf_variable(weight).device


@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", ["on", "off"])
def test_precision_and_compilation_of_the_network(settings, tmp_path, precision, jit):
    """XLA compiles the network too; the loss is that of the CPU, to what the precision leaves."""
    first = losses(dataclasses.replace(settings, precision=precision, jit=jit, steps=2))[0]
    with tf.device("/CPU:0"):
        reference = losses(
            dataclasses.replace(settings, workdir=str(tmp_path / "cpu"), jit="off", steps=1)
        )[0]
    assert first == pytest.approx(reference, rel=1e-3 if precision == "float32" else 5e-2)


def test_a_deterministic_run_repeats_and_resumes_bit_for_bit(settings, tmp_path):
    settings = dataclasses.replace(settings, deterministic="on", strategy="one_device")
    whole = losses(settings)
    parted = dataclasses.replace(settings, workdir=str(tmp_path / "parted"))
    losses(dataclasses.replace(parted, steps=3))
    assert losses(parted) == whole


def test_two_gpus_share_a_batch(settings, tmp_path):
    if len(tf.config.list_logical_devices("GPU")) < 2:
        pytest.skip("a single GPU here")
    assert strategies.make_strategy("auto").num_replicas_in_sync >= 2
    one = losses(
        dataclasses.replace(settings, strategy="one_device", sync_batch_norm=True, steps=1)
    )
    two = losses(
        dataclasses.replace(
            settings,
            workdir=str(tmp_path / "two"),
            strategy="mirrored",
            sync_batch_norm=True,
            steps=1,
        )
    )
    np.testing.assert_allclose(two, one, rtol=1e-3)
