"""Is a batch taken in parts the whole batch? In float64, to round-off, but for batch norm.

Batch norm is of each part by itself, so the oracle is the one of replicas; where all parts hold the
same images nothing is left to differ.
"""

import numpy as np
import pytest
import replica_steps

from tce_tf.modeling import tce_model
from tce_tf.training import strategies

NAMES = sorted(["embedding_std", *tce_model.METRICS])


def train(devices="one_device", **options):
    made = replica_steps.train(strategies.make_strategy(devices), **options)
    copies = {name: made[name][0] for name in ("bank", "weights", "statistics")}
    return copies | {"logs": made["logs"]}


def check_equal(made, expected, names, tolerance=1e-9):
    for name in names:
        np.testing.assert_allclose(
            made[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("parts", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_parts_follow_the_oracle_of_replicas(parts):
    made, expected = train(accumulate_steps=parts), replica_steps.oracle(parts)
    check_equal(made, expected, ("bank", "weights", "statistics"))
    for name, column in (("loss", 0), ("nce_loss", 1)):
        np.testing.assert_allclose(
            made["logs"][:, NAMES.index(name)], np.array(expected["loss"])[:, column], rtol=1e-9
        )


def equal_halves(step):
    """The second half of the images is the first; rows and rotations are not."""
    batch = replica_steps.views(step)
    half = replica_steps.BATCH // 2
    for name in ("anchor", "positive", "rotated"):
        batch[name] = np.tile(batch[name][:half], (2, 1, 1, 1))
    return batch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"z_momentum": 0.5, "mining_low": 0.0, "mining_rate": 0.0},  # mines from the start
        {"loss": "infonce", "rotation_weight": 0.0},
    ],
)
def test_equal_halves_are_the_whole_batch(changes):
    """Draws, mined rows, Z, loss, gradients and bank; all logged values too."""
    objective = tce_model.Objective(**({"num_negatives": 6, "total_steps": 10} | changes))
    whole = train(objective=objective, batches=equal_halves)
    made = train(objective=objective, batches=equal_halves, accumulate_steps=2)
    check_equal(made, whole, ("logs", "bank", "weights"))
    mined = whole["logs"][:, NAMES.index("hard_negative_fraction")]
    assert (mined[0] > 0.3) == ("mining_low" in changes)


def test_replicas_take_parts_of_their_own():
    """Two replicas with two parts each, against one with four."""
    made = train("mirrored", accumulate_steps=2)
    check_equal(made, train(accumulate_steps=4), ("logs", "bank", "weights", "statistics"))


@pytest.mark.slow
def test_xla_compiles_the_whole_step_with_its_loop():
    made = train(accumulate_steps=2, jit_step=True)
    check_equal(made, train(accumulate_steps=2), ("logs", "bank", "weights", "statistics"))


def test_synchronised_batch_norm_is_refused():
    with pytest.raises(ValueError, match="parts of a batch cannot share batch norm"):
        replica_steps.make_model(accumulate_steps=2, sync_batch_norm=True)
