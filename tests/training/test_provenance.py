"""Does a workdir tell what made it, and refuse what would make other numbers?"""

import dataclasses
import hashlib
import json
import os

import keras
import pytest
import tensorflow as tf

from tce_tf import command, config, errors, train
from tce_tf.training import provenance

# Another value than the default for each kind of setting.
OTHER = {"learning_rate": 0.5, "mining": False, "frame_gap": "2:4", "seed": 7}


@pytest.fixture(name="shards")
def _shards(tmp_path):
    """Two folders that a manifest alone makes shard folders of."""
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(f'{{"videos": "{name}"}}')
        folders.append(str(tmp_path / name))
    return folders


@pytest.fixture(name="workdir")
def _workdir(tmp_path):
    """One that holds a checkpoint: before there is one, nothing is compared."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "ckpt-1.index").write_bytes(b"")
    return str(tmp_path / "run")


def settings(**changes):
    return config.TrainConfig(data="a,b", workdir="somewhere", **changes)


def test_config_holds_settings_versions_and_data(workdir, shards):
    given = settings(epochs=3)
    provenance.save_config(workdir, given, shards)
    saved = provenance.read_config(workdir)
    assert saved["settings"] == dataclasses.asdict(given)
    assert saved["versions"]["tensorflow"] == tf.__version__
    assert saved["versions"]["keras"] == keras.__version__
    expected = [hashlib.sha256(f'{{"videos": "{name}"}}'.encode()).hexdigest() for name in "ab"]
    assert [entry["manifest"] for entry in saved["data"]] == expected
    assert [entry["folder"] for entry in saved["data"]] == shards


def test_flags_file_gives_the_same_settings_again(workdir, shards):
    given = settings(**OTHER, export_dir="with space/x", eval_train="p,q", eval_test="r")
    provenance.save_config(workdir, given, shards)
    values = command.parse(train.define_flags, [f"--flagfile={workdir}/flags.txt"])
    assert command.to_dataclass(config.TrainConfig, values) == given


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_that_changes_numbers_is_refused_and_named(workdir, shards, name):
    provenance.save_config(workdir, settings(), shards)
    before = (provenance.read_config(workdir), getattr(settings(), name))
    with pytest.raises(errors.UserError) as failure:
        provenance.check_config(workdir, settings(**{name: OTHER[name]}), shards)
    assert f"--{name}: {before[1]!r} then, {OTHER[name]!r} now" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert provenance.read_config(workdir) == before[0]  # the run's own settings stay


def test_free_settings_may_change_and_are_noted(workdir, shards):
    provenance.save_config(workdir, settings(), shards)
    free = {"steps": 9, "log_every": 3, "keep": 1, "jit": "off", "strategy": "one_device"}
    provenance.check_config(workdir, settings(**free), shards)
    provenance.save_config(workdir, settings(**free), shards)
    assert provenance.read_config(workdir)["settings"]["steps"] == 9


def test_every_free_setting_is_a_setting():
    names = {field.name for field in dataclasses.fields(config.TrainConfig)}
    assert names >= provenance.FREE_SETTINGS
    # What the numbers depend on cannot be free.
    assert not provenance.FREE_SETTINGS & {
        "batch_size", "epochs", "seed", "precision", "frame_gap", "num_negatives", "data",
    }  # fmt: skip


def test_data_may_move_but_not_change_or_swap(workdir, shards, tmp_path):
    provenance.save_config(workdir, settings(), shards)
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = [str(tmp_path / "moved"), shards[1]]
    provenance.check_config(workdir, dataclasses.replace(settings(), data="moved,b"), moved)
    for others in (moved[::-1], moved[:1]):  # bank rows follow the order of the folders
        with pytest.raises(errors.UserError, match="the shards in .* are others than the run"):
            provenance.check_config(workdir, settings(), others)
    (tmp_path / "b" / "manifest.json").write_text("{}")
    with pytest.raises(errors.UserError, match="the shards in .*moved"):
        provenance.check_config(workdir, settings(), moved)


def test_a_run_of_another_command_is_refused(workdir, shards):
    provenance.save_config(workdir, settings(), shards)
    with pytest.raises(errors.UserError, match="holds a run of another command"):
        provenance.check_config(workdir, config.FinetuneConfig(), shards)


def test_before_the_first_checkpoint_all_may_change(tmp_path, shards):
    """A start that was refused or ran out of memory does not claim the workdir."""
    provenance.save_config(str(tmp_path), settings(), shards)
    provenance.check_config(str(tmp_path), settings(seed=7), shards)


def test_shards_may_not_change_sides(workdir, shards):
    """Of fine-tuning: training and test folders are one list beside the settings."""
    given = config.FinetuneConfig(train="a", test="b")
    provenance.save_config(workdir, given, shards)
    provenance.check_config(workdir, given, shards)
    with pytest.raises(errors.UserError, match="--train: 'a' then, 'a,b' now"):
        provenance.check_config(workdir, config.FinetuneConfig(train="a,b", test=""), shards)


def test_an_encoder_replaced_by_another_is_named(workdir, shards):
    given = config.FinetuneConfig(train="a", test="b")
    provenance.save_config(workdir, given, shards, {"image_size": 112, "class_names": ("x",)})
    provenance.check_config(workdir, given, shards, {"image_size": 112, "class_names": ("x",)})
    with pytest.raises(
        errors.UserError, match="image_size of the encoder's weights: 112 then, 224"
    ):
        provenance.check_config(workdir, given, shards, {"image_size": 224, "class_names": ("x",)})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}', "\xff"])
def test_a_damaged_config_is_the_users_to_mend(workdir, content):
    with open(f"{workdir}/config.json", "w", encoding="latin-1") as file:
        file.write(content)
    with pytest.raises(errors.UserError, match="config.json: not a config written by train"):
        provenance.read_config(workdir)


def test_a_folder_without_config_is_no_workdir(workdir):
    with pytest.raises(errors.UserError, match="config.json: No such file.*: not a training"):
        provenance.read_config(workdir)


def test_a_write_that_is_cut_short_leaves_the_config_as_it_was(workdir, shards, monkeypatch):
    provenance.save_config(workdir, settings(), shards)

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        provenance.save_config(workdir, settings(steps=5), shards)
    assert provenance.read_config(workdir)["settings"]["steps"] == 0


def test_a_setting_newer_than_the_run_counts_as_its_default_then(workdir, shards):
    provenance.save_config(workdir, settings(), shards)
    path = os.path.join(workdir, "config.json")
    with open(path, encoding="utf-8") as file:
        saved = json.load(file)
    del saved["settings"]["optimizer"]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(saved, file)
    with pytest.raises(errors.UserError, match="--optimizer: 'sgd' then, 'adamw' now"):
        provenance.check_config(workdir, settings(optimizer="adamw"), shards)
    provenance.check_config(workdir, settings(), shards)
    provenance.save_config(workdir, settings(), shards)
    assert provenance.read_config(workdir)["settings"]["optimizer"] == "sgd"
