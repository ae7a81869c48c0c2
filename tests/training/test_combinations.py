"""Does each way to compute train alike? Precision, XLA, devices, loss, optimizer, in all combinations.

Loss and bank are float32 whatever the network computes in, and the losses are those of the plain
float32 run of one device, to what the precision leaves. `--runslow` runs them all.
"""

import itertools
import json

import numpy as np
import pytest
import small_network
import tensorflow as tf

from tce_tf import config
from tce_tf.modeling import losses, resnet
from tce_tf.training import run

OPTIMIZERS = config.TrainConfig.__dataclass_fields__["optimizer"].metadata["choices"]
WAYS = {
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
    "jit": ("off", "on"),
    "strategy": ("one_device", "mirrored"),
    "loss": ("nce", "infonce"),
    "optimizer": OPTIMIZERS,
}
# Relative; the temperature is high, so that it does not blow up the rounding of the embeddings.
TOLERANCE = {"float32": 1e-4, "mixed_float16": 0.01, "mixed_bfloat16": 0.05}


# In the default suite: all that a plain run of one loss and one optimizer does not show.
QUICK = ("mixed_float16-on-mirrored-infonce-adamw",)


def ways():
    for values in itertools.product(*WAYS.values()):
        name = "-".join(values)
        marks = () if name in QUICK else pytest.mark.slow
        yield pytest.param(dict(zip(WAYS, values, strict=True)), id=name, marks=marks)


@pytest.fixture(scope="module", name="train")
def _train(synthetic_shards, tmp_path_factory):
    """Runs two steps in one way; returns their losses, the bank and the dtypes of scores seen."""
    seen = set()

    def watching(function):
        def watched(scores, *args, **kwargs):
            seen.add(scores.dtype)
            return function(scores, *args, **kwargs)

        return watched

    def train(**way):
        workdir = tmp_path_factory.mktemp("run")
        seen.clear()
        settings = config.TrainConfig(
            data=synthetic_shards["train"], workdir=str(workdir), image_size=32, batch_size=4,
            num_negatives=8, temperature=0.5, epochs=2, decay_epochs="", steps=2, log_every=1,
            learning_rate=1e-5, **({"sync_batch_norm": True} | way),
        )  # fmt: skip
        assert run.train(settings).step == 2
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / "ckpt-2"))
        (bank,) = [n for n in reader.get_variable_to_shape_map() if n.startswith("model/bank/")]
        return [json.loads(line)["loss"] for line in lines], reader.get_tensor(bank), set(seen)

    with pytest.MonkeyPatch.context() as patch:
        # Two blocks: how parts work together is tested, and each way is traced and compiled anew.
        patch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)
        for name in ("nce_loss", "info_nce_loss"):
            patch.setattr(losses, name, watching(getattr(losses, name)))
        yield train


@pytest.fixture(scope="module", name="plain")
def _plain(train):
    made = {}

    def plain(**what):
        key = tuple(what.items())
        if key not in made:
            made[key] = train(precision="float32", jit="off", strategy="one_device", **what)
        return made[key]

    return plain


@pytest.mark.parametrize("way", ways())
def test_it_trains_like_the_plain_run(train, plain, way):
    values, bank, dtypes = train(**way)
    expected, expected_bank, _ = plain(loss=way["loss"], optimizer=way["optimizer"])
    tolerance = TOLERANCE[way["precision"]]
    assert dtypes == {tf.float32} and bank.dtype == np.float32
    assert np.isfinite(values).all()
    # Keras 3 does not count a step that loss scaling skips: the negatives of the next are others.
    counted = 1 if way["precision"] == "mixed_float16" else 2
    np.testing.assert_allclose(values[:counted], expected[:counted], rtol=tolerance)
    np.testing.assert_allclose(bank, expected_bank, atol=3 * tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("precision", WAYS["precision"])
@pytest.mark.parametrize("jit", WAYS["jit"])
def test_accumulating_trains_like_a_plain_run_that_accumulates(train, precision, jit):
    """Batch norm is of each part there, so it is held against parts of float32, not one batch."""
    parts = {"accumulate_steps": 2, "sync_batch_norm": False, "strategy": "one_device"}
    expected, expected_bank, _ = train(precision="float32", jit="off", **parts)
    values, bank, dtypes = train(precision=precision, jit=jit, **parts)
    assert dtypes == {tf.float32} and bank.dtype == np.float32
    counted = 1 if precision == "mixed_float16" else 2
    np.testing.assert_allclose(values[:counted], expected[:counted], rtol=TOLERANCE[precision])
    np.testing.assert_allclose(bank, expected_bank, atol=3 * TOLERANCE[precision])
