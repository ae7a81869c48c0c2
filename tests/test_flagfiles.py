"""Does every flag file run? Two steps of each on synthetic shards, sizes reduced."""

import pathlib

import pytest
import small_network

from tce_tf import command, config, finetune, train
from tce_tf.modeling import resnet

EXPERIMENTS = pathlib.Path(__file__).parent.parent / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.flags"))
FINETUNING = [path for path in FILES if "tce_tf.finetune " in path.read_text()]
PRETRAINING = [path for path in FILES if path not in FINETUNING]


@pytest.fixture(autouse=True)
def _from_the_projects_root(monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    # Two blocks: every file is traced and compiled anew. `make demo` runs a whole network.
    monkeypatch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)
    monkeypatch.setitem(resnet.STAGES, "resnet50", ((1, 1), True))


def parse(path, *more):
    module, cls = (train, config.TrainConfig)
    if path in FINETUNING:
        module, cls = (finetune, config.FinetuneConfig)
    values = command.parse(module.define_flags, [f"--flagfile={path}", *more])
    return command.to_dataclass(cls, values)


def test_there_are_flag_files():
    assert {path.stem for path in PRETRAINING} >= {
        "pretrain",
        "pretrain_ucf101",
        "pretrain_ucf101_resnet50",
        "pretrain_kinetics_resnet50",
        "pretrain_released",
        "demo",
    }
    assert {path.stem for path in FINETUNING} == {
        "finetune_ucf101",
        "finetune_ucf101_sod",
        "finetune_hmdb51",
        "linear_probe",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_flag_file_says_what_it_is(path):
    text = path.read_text()
    for heading in ("# COMMAND", "# HARDWARE"):
        assert heading in text
    settings = parse(path)
    # Bare commands must run: defaults for all paths, but for the demo, which makes its own.
    data = settings.train and settings.test if path in FINETUNING else settings.data
    assert bool(data) == bool(settings.workdir) == (path.stem != "demo")


def test_the_paper_recipe():
    settings = parse(EXPERIMENTS / "pretrain.flags")
    assert (settings.backbone, settings.batch_size, settings.epochs) == ("resnet18", 100, 50)
    assert (settings.num_negatives, settings.temperature) == (8192, 0.07)
    assert (settings.learning_rate, settings.decay_epoch_list) == (0.03, [25])
    assert (settings.momentum, settings.weight_decay) == (0.9, 1e-4)
    assert (settings.frame_gap, settings.mining, settings.mining_rate) == ("1", True, 5.0)
    released = parse(EXPERIMENTS / "pretrain_released.flags")
    assert (released.frame_gap, released.mining) == ("0", False)


def test_the_papers_fine_tuning():
    settings = parse(EXPERIMENTS / "finetune_ucf101.flags")
    assert (settings.batch_size, settings.epochs) == (100, 900)
    assert (settings.num_segments, settings.test_frames) == (3, 19)
    assert (settings.learning_rate, settings.decay_epoch_list) == (0.05, [375])
    assert (settings.weight_decay, settings.dropout, settings.augment) == (0, 0, False)
    stacks = parse(EXPERIMENTS / "finetune_ucf101_sod.flags")
    assert (stacks.batch_size, stacks.epochs, stacks.decay_epoch_list) == (25, 600, [375])
    assert stacks.input_mode == "stack_of_differences"
    assert parse(EXPERIMENTS / "linear_probe.flags").freeze_backbone


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_flag_file_trains_two_steps(path, synthetic_shards, tmp_path):
    from tce_tf.training import run

    reduced = ["--batch_size=4", "--image_size=32", "--num_negatives=8", "--steps=2"]
    where = [f"--data={synthetic_shards['train']}", f"--workdir={tmp_path}"]
    result = run.train(parse(path, *where, *reduced))
    assert result.step == 2 and result.metrics["loss"] > 0
    assert (tmp_path / "checkpoints" / "ckpt-2.index").exists()


@pytest.mark.parametrize("path", FINETUNING, ids=lambda path: path.stem)
def test_flag_file_fine_tunes_two_steps(path, synthetic_shards, tmp_path):
    from tce_tf.training import finetuning

    reduced = [
        "--batch_size=4",
        "--image_size=32",
        "--steps=2",
        "--test_frames=2",
        "--encoder=none",
    ]
    where = [f"--{name}={synthetic_shards[name]}" for name in ("train", "test")]
    result = finetuning.finetune(parse(path, *where, f"--workdir={tmp_path}", *reduced))
    assert result.step == 2 and 0 <= result.results["top1"] <= 1
    assert (tmp_path / "results.json").exists()
