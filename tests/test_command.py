"""How do commands end? Exit codes, one-line errors, flag files, help that lists every flag."""

import os
import re
import subprocess
import sys

import pytest
from absl import flags

from tce_tf import command, config, errors


def define(values):
    flags.DEFINE_integer("count", 3, "How many.", lower_bound=0, flag_values=values)
    flags.DEFINE_enum("kind", "a", ("a", "b"), "Which.", flag_values=values)


def test_the_last_of_a_repeated_flag_wins(tmp_path):
    file = tmp_path / "x.flags"
    file.write_text("# a comment\n--count=5\n--kind=b\n")
    values = command.parse(define, [f"--flagfile={file}", "--count=7"])
    assert (values.count, values.kind) == (7, "b")
    assert command.parse(define, ["--count=7", f"--flagfile={file}"]).count == 5


def test_two_commands_in_one_process_do_not_clash():
    assert command.parse(define, ["--count=1"]).count == 1
    assert command.parse(define, ["--count=2"]).count == 2


@pytest.mark.parametrize(
    "arguments", [["--count=x"], ["--count=-1"], ["--nope"], ["--kind=c"], ["y"]]
)
def test_bad_flags_are_errors(arguments):
    with pytest.raises(flags.Error):
        command.parse(define, arguments)


def test_numbers_are_finite():
    def define_float(values):
        flags.DEFINE_float("share", 0.1, "How much.", flag_values=values)

    for text in ("nan", "inf", "-inf"):
        with pytest.raises(flags.Error, match="--share=.*finite"):
            command.parse(define_float, [f"--share={text}"])


def test_a_flag_file_that_is_no_text(tmp_path):
    (tmp_path / "x.flags").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(errors.UserError, match="--flagfile"):
        command.parse(define, [f"--flagfile={tmp_path}/x.flags"])


def test_missing_flag_file():
    with pytest.raises((errors.UserError, flags.Error), match="nowhere.flags"):
        command.parse(define, ["--flagfile=nowhere.flags"])


COMMANDS = [
    "make_synthetic", "make_tfrecords", "train", "export", "evaluate", "embed", "visualize",
    "convert_torch",
]  # fmt: skip


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"tce_tf.{name}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_flag_and_a_bad_flag_exits_2(name):
    shown = run(name, "--help")
    assert shown.returncode == 0 and not shown.stderr
    assert f"python -m tce_tf.{name}" in shown.stdout and "--flagfile" in shown.stdout
    assert len(re.findall(r"^  --", shown.stdout, re.M)) >= 5
    assert max(map(len, shown.stdout.splitlines())) <= 140
    bad = run(name, "--no_such_flag=1")
    assert bad.returncode == 2
    assert len(bad.stderr.strip().splitlines()) == 1 and "no_such_flag" in bad.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 0), ("temperature", 0.0), ("backbone", "vgg"), ("decay_epochs", "5,3"),
     ("max_hard_fraction", 1.5), ("momentum", 1.0), ("image_size", 16), ("warmup_epochs", 50)],
)  # fmt: skip
def test_settings_out_of_range(setting, value):
    with pytest.raises(errors.FlagError, match=f"--{setting}={value}: must be"):
        config.TrainConfig(**{setting: value})


def test_user_error_is_one_line_and_exit_1(tmp_path):
    for name, arguments in (
        ("train", ["--data=nowhere", f"--workdir={tmp_path}/run"]),
        ("export", [f"--workdir={tmp_path}", f"--output={tmp_path}/out"]),
        ("evaluate", ["--encoder=nowhere", "--train=a", "--test=b"]),
        ("embed", ["--encoder=nowhere", "--input=a", "--output=b.npz"]),
    ):
        done = run(name, *arguments)
        assert done.returncode == 1, (name, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in done.stderr, (name, done.stderr)


@pytest.mark.parametrize("kind", ["python", "tensorflow"])
def test_want_of_memory_is_one_line(kind, capsys):
    def main(_):
        if kind == "python":
            bytearray(2**46)
        import tensorflow as tf

        text = "{{function_node f}} OOM when allocating tensor\nwith shape[9]"
        raise tf.errors.ResourceExhaustedError(None, None, text)

    with pytest.raises(SystemExit) as end:
        command.run(main, define, [])
    line = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 1 and line.startswith("error: not enough memory; make batches")
    assert ("OOM when allocating tensor" in line) == (kind == "tensorflow")


def test_names_cannot_speak_to_the_terminal():
    code = """
from absl import logging
from tce_tf import command, errors
name = "a\\x1b[2J\\r\\nerror: forged\\u202e\\udcff.avi"
def main(_):
    logging.warning("left out: %s", name)
    raise errors.UserError(f"{name} is no video")
command.run(main, lambda _: None, [])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and all(line.isprintable() for line in lines), done.stderr
    assert r"a\x1b[2J\r\nerror: forged\u202e\udcff.avi" in lines[0]
    assert errors.printable("größe 名.mp4") == "größe 名.mp4"


def test_help_that_nobody_reads_is_no_traceback():
    """`... --help | head -1`: the reader is gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "tce_tf.make_synthetic", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""
