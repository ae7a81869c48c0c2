"""Does every flag file run? Two steps of each on synthetic shards, sizes reduced."""

import pathlib

import pytest

from tce_tf import command, config, train

EXPERIMENTS = pathlib.Path(__file__).parent.parent / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.flags"))


@pytest.fixture(autouse=True)
def _from_the_projects_root(monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)


def parse(path, *more):
    values = command.parse(train.define_flags, [f"--flagfile={path}", *more])
    return command.to_dataclass(config.TrainConfig, values)


def test_there_are_flag_files():
    assert {path.stem for path in FILES} >= {
        "pretrain",
        "pretrain_ucf101",
        "pretrain_ucf101_resnet50",
        "pretrain_kinetics_resnet50",
        "pretrain_released",
        "demo",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_flag_file_says_what_it_is(path):
    text = path.read_text()
    for heading in ("# COMMAND", "# HARDWARE"):
        assert heading in text
    settings = parse(path)
    # Bare commands must run: defaults for both paths, but for the demo, which makes its own.
    assert bool(settings.data) == bool(settings.workdir) == (path.stem != "demo")


def test_the_paper_recipe():
    settings = parse(EXPERIMENTS / "pretrain.flags")
    assert (settings.backbone, settings.batch_size, settings.epochs) == ("resnet18", 100, 50)
    assert (settings.num_negatives, settings.temperature) == (8192, 0.07)
    assert (settings.learning_rate, settings.decay_epoch_list) == (0.03, [25])
    assert (settings.momentum, settings.weight_decay) == (0.9, 1e-4)
    assert (settings.frame_gap, settings.mining, settings.mining_rate) == ("1", True, 5.0)
    released = parse(EXPERIMENTS / "pretrain_released.flags")
    assert (released.frame_gap, released.mining) == ("0", False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_flag_file_trains_two_steps(path, synthetic_shards, tmp_path):
    from tce_tf.training import run

    reduced = ["--batch_size=4", "--image_size=32", "--num_negatives=8", "--steps=2"]
    where = [f"--data={synthetic_shards['train']}", f"--workdir={tmp_path}"]
    result = run.train(parse(path, *where, *reduced))
    assert result.step == 2 and result.metrics["loss"] > 0
    assert (tmp_path / "checkpoints" / "ckpt-2.index").exists()
