"""Does a number out of range, or a pair of flags that contradict each other, end in one line?

Every number of every command is walked, from the definitions of the flags, so a new one is tried too.
"""

import itertools

import pytest
from absl import flags

from tce_tf import (
    command,
    convert_torch,
    embed,
    evaluate,
    export,
    finetune,
    make_synthetic,
    make_tfrecords,
    train,
    visualize,
)
from tce_tf.serving import client

# What makes each command look at its numbers, and then fail for want of any input.
COMMANDS = {
    convert_torch: ["--checkpoint=/nowhere/a.pth", "--workdir=/nowhere/run"],
    embed: ["--encoder=/nowhere/a", "--input=/nowhere/b", "--output=/nowhere/c.npz"],
    evaluate: ["--encoder=/nowhere/a", "--train=/nowhere/b", "--test=/nowhere/c"],
    export: ["--workdir=/nowhere/run", "--output=/nowhere/a"],
    finetune: ["--encoder=/nowhere/a", "--train=/nowhere/b", "--test=/nowhere/c"],
    make_synthetic: ["--output=/dev/null/clips"],
    make_tfrecords: ["--input=/nowhere/a", "--output=/dev/null/b"],
    train: ["--data=/nowhere/a"],
    visualize: ["--encoder=/nowhere/a", "--input=/nowhere/b", "--output=/nowhere/c.png"],
    client: ["--model=a", "--input=/nowhere/b", "--output=/nowhere/c.npz"],
}
NO_NUMBERS = ("nan", "inf", "-inf", "1e400", "-1e400", "1e300", "-1e300", f"{10**300}", f"-{10**300}",
              "x", "", "1 2", "0x", "9" * 5000)  # fmt: skip


def numbers(module):
    values = flags.FlagValues()
    module.define_flags(values)
    return [name for name in values if values[name].flag_type() in ("int", "float")]


def outcome(module, capsys, *arguments):
    """Exit code and error line; anything that is not one line fails here."""
    with pytest.raises(SystemExit) as end:
        command.run(module.main, module.define_flags, arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, (arguments, lines)
    return end.value.code, lines[0]


@pytest.fixture(name="workdir")
def _workdir(tmp_path):
    """Training makes its workdir before it looks for data."""
    return {train: [f"--workdir={tmp_path}"], finetune: [f"--workdir={tmp_path}"]}


CASES = [(module, name) for module in COMMANDS for name in numbers(module)]


def test_every_command_with_numbers_is_walked():
    assert len(CASES) > 70 and {module for module, _ in CASES} == set(COMMANDS)


@pytest.mark.parametrize(("module", "name"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_what_is_no_number_in_range_exits_2(module, name, capsys, workdir):
    base = [*COMMANDS[module], *workdir.get(module, ())]
    code, line = outcome(module, capsys, *base)
    assert code == 1, line
    for text in NO_NUMBERS:
        code, line = outcome(module, capsys, *base, f"--{name}={text}")
        assert code == 2 and f"{name}" in line, (text, line)
    for text in ("-1", "0", "1"):  # of some flags a valid value
        code, line = outcome(module, capsys, *base, f"--{name}={text}")
        assert code == 1 or (code == 2 and name in line), (text, line)


LISTS = {
    train: ("frame_gap", "decay_epochs"),
    finetune: ("decay_epochs",),
    evaluate: ("shots", "protocol"),
    make_tfrecords: ("size",),
    make_synthetic: ("size",),
}


@pytest.mark.parametrize(
    ("module", "name"), [(m, n) for m, names in LISTS.items() for n in names],
    ids=lambda x: getattr(x, "__name__", x),
)  # fmt: skip
def test_numbers_in_text_have_a_range_too(module, name, capsys, workdir):
    base = [*COMMANDS[module], *workdir.get(module, ())]
    wrong = ["-1", "nan", "1e3", "9" * 5000, f"{10**30}", "1:2:3", "2:1", "x", ",", "1x", "0x0",
             f"{10**30}x{10**30}", "9999x9999", "²"]  # fmt: skip
    for text in wrong:
        if (name, text) == ("decay_epochs", ","):  # an empty list: no drop
            continue
        code, line = outcome(module, capsys, *base, f"--{name}={text}")
        if (module, text) == (make_synthetic, "9999x9999"):  # odd, which is found when it starts
            continue
        assert code == 2 and name in line, (text, line)


CONTRADICTIONS = [
    (train, ["--eval_test=/nowhere/x"], "--eval_test"),
    (train, ["--accumulate_steps=2", "--sync_batch_norm"], "--accumulate_steps"),
    (train, ["--resize_mode=squash", "--min_crop=0.5"], "--resize_mode"),
    (train, ["--resize_mode=squash", "--own_crops"], "--resize_mode"),
    (train, ["--mining_low=1", "--mining_high=0"], "--mining_low"),
    (train, ["--warmup_epochs=9", "--epochs=9"], "--warmup_epochs"),
    (finetune, ["--warmup_epochs=9", "--epochs=9"], "--warmup_epochs"),
    (evaluate, ["--splits=1,2"], "--test"),
    (evaluate, ["--splits=1"], "--splits"),
    (evaluate, ["--test=/nowhere/{split}"], "--splits"),
    (embed, ["--query=/nowhere/x"], "--collection"),
    (embed, ["--collection=/nowhere/x.npz"], "--query"),
    (embed, ["--query=/nowhere/x", "--collection=/nowhere/y.npz"], "--output"),
    (visualize, ["--encoder=/nowhere/a"], "twice"),
    (make_tfrecords, ["--beam_options=--x"], "--runner"),
    (convert_torch, ["--reverse", "--export_dir=/nowhere/x"], "--reverse"),
    (convert_torch, ["--reverse", "--backbone=resnet18"], "--reverse"),
    (convert_torch, ["--workdir="], "--workdir"),
]


@pytest.mark.parametrize(("module", "more", "named"), CONTRADICTIONS)
def test_contradictions_exit_2(module, more, named, capsys, workdir):
    base = [*COMMANDS[module], *workdir.get(module, ())]
    code, line = outcome(module, capsys, *base, *more)
    assert code == 2 and named in line


def test_text_flags_are_text(capsys):
    """What no file can be called: NUL. What no manifest can hold: bytes that are no UTF-8."""
    for module, bad in itertools.product(COMMANDS, ("a\0b", "\udcff")):
        code, line = outcome(module, capsys, *COMMANDS[module], *required_text(module, bad))
        assert code == 2 and "is not UTF-8 text" in line and line.isprintable()


def required_text(module, text):
    name = COMMANDS[module][0].partition("=")[0]
    return [f"{name}={text}"]
