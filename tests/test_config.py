"""Is every setting out of range refused by its name, with exit code 2, before anything is touched?"""

import dataclasses

import pytest

from tce_tf import command, config, errors, train


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("seed", 2**63, "at most 9223372036854775807"),
        ("seed", -1, "0 or more"),
        ("batch_size", 0, "at least 1"),
        ("accumulate_steps", 0, "at least 1"),
        ("keep", 0, "at least 1"),
        ("image_size", 31, "at least 32"),
        ("temperature", 0.0, "above 0"),
        ("momentum", 1.0, "from 0 to below 1"),
        ("max_bad_fraction", 1.1, "from 0 to 1"),
        ("warmup_epochs", 50, "below --epochs=50"),
        ("min_crop", 0.0, "above 0 and at most 0.875"),
        ("min_crop", 0.9, "above 0 and at most 0.875"),
        ("mining_low", 2.0, "at most --mining_high=1"),
        ("deterministic", "maybe", "one of auto, on, off"),
        ("eval_test", "shards", "given together with --eval_train"),
    ],
)
def test_a_value_out_of_range_is_named(name, value, wanted):
    with pytest.raises(errors.FlagError, match=f"^--{name}={value}: must be {wanted}"):
        config.TrainConfig(**{name: value})


def test_parts_of_a_batch_cannot_synchronise_batch_norm():
    with pytest.raises(
        errors.FlagError, match="^--accumulate_steps=2: must be 1 with --sync_batch"
    ):
        config.TrainConfig(accumulate_steps=2, sync_batch_norm=True)


@pytest.mark.parametrize("crop", [{"min_crop": 0.5}, {"own_crops": True}])
def test_crops_are_refused_where_whole_frames_are_taken(crop):
    with pytest.raises(
        errors.FlagError, match="--resize_mode=squash: must be crop with --min_crop"
    ):
        config.TrainConfig(resize_mode="squash", **crop)


@pytest.mark.parametrize("seed", [2**63, 2**64, 10**30])
def test_a_seed_beyond_64_bits_is_one_line_and_exit_2(seed, capsys):
    with pytest.raises(SystemExit) as end:
        command.run(train.main, train.define_flags, ["--data=d", "--workdir=w", f"--seed={seed}"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and f"{seed}" in line


def test_the_largest_seed_is_taken():
    assert config.TrainConfig(seed=2**63 - 1).seed == 2**63 - 1


def test_each_setting_becomes_a_flag_of_its_type_with_help():
    values = command.parse(train.define_flags, [])
    for field in dataclasses.fields(config.TrainConfig):
        assert type(values[field.name].value) is type(field.default)
        assert len(values[field.name].help) > 10, field.name


@pytest.mark.parametrize("text", ["0", "3,3", "5,4", "x", "1,,x", "-1"])
def test_decay_epochs_must_ascend(text):
    with pytest.raises(errors.FlagError, match=f"--decay_epochs={text}"):
        config.TrainConfig(decay_epochs=text)


def test_decay_epochs_as_numbers():
    assert config.TrainConfig(decay_epochs="25, 40").decay_epoch_list == [25, 40]
    assert config.TrainConfig(decay_epochs="").decay_epoch_list == []


def test_fine_tuning_has_one_process():
    with pytest.raises(errors.FlagError, match="--strategy=multi_worker: must be one of auto"):
        config.FinetuneConfig(strategy="multi_worker")
