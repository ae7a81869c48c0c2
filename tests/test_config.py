"""Is every setting out of range refused by its name, with exit code 2, before anything is touched?"""

import dataclasses

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tce_tf import command, config, errors, finetune, train
from tce_tf.training import provenance


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


def _values(field):
    if field.metadata["choices"]:
        return st.sampled_from(field.metadata["choices"])
    return {
        bool: st.booleans(),
        int: st.integers(0, 2**31 - 1),
        float: st.floats(-1e38, 1e38),
        str: st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=9),
    }[type(field.default)]


@pytest.mark.parametrize(
    ("cls", "module"), [(config.TrainConfig, train), (config.FinetuneConfig, finetune)]
)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.filter_too_much])
def test_any_settings_come_back_from_flags_and_json(tmp_path_factory, cls, module, data):
    """Through `flags.txt` and `config.json` as a run writes them, whatever the settings."""
    chosen = data.draw(st.lists(st.sampled_from(dataclasses.fields(cls)), max_size=4, unique=True))
    values = {field.name: data.draw(_values(field), label=field.name) for field in chosen}
    values = {k: v.strip() if isinstance(v, str) else v for k, v in values.items()}
    try:
        given_settings = cls(**values)
    except errors.FlagError:
        assume(False)
    workdir = str(tmp_path_factory.mktemp("run"))
    provenance.save_config(workdir, given_settings, [])
    parsed = command.parse(module.define_flags, [f"--flagfile={workdir}/flags.txt"])
    assert command.to_dataclass(cls, parsed) == given_settings
    assert cls(**provenance.read_config(workdir)["settings"]) == given_settings


@pytest.mark.parametrize("text", ["a\n--seed=1", "a\r"])
def test_a_text_is_one_line(text):
    with pytest.raises(errors.FlagError, match="--workdir=.*must be one line"):
        config.TrainConfig(workdir=text)
