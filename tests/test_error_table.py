"""Does each message of the README's table of errors exist? Each is brought about and compared."""

import errno
import os
import pathlib
import re
import shutil
import signal
import types

import bombs
import numpy as np
import pytest
import small_network
import tensorflow as tf
from PIL import Image

from tce_tf import command, embed, errors, evaluate, make_tfrecords, train
from tce_tf.data import run_state, steps
from tce_tf.modeling import checkpoint_files, resnet
from tce_tf.serving import client
from tce_tf.training import health, provenance, workers

README = pathlib.Path(__file__).parent.parent / "README.md"
ENCODER = ("--encoder=none", "--image_size=32")
TRAIN = ("--image_size=32", "--batch_size=4", "--num_negatives=8", "--steps=1")


def rows(kind="errors"):
    """The first cell of each row of a table, without its backticks."""
    text = README.read_text(encoding="utf-8")
    section = text.split("## When something goes wrong")[1].split("\n## ")[0]
    section = section.split("\nA run that goes on may warn:")[kind == "warnings"]
    return re.findall(r"^\| `(.+?)` \| .+ \| .+ \|$", section, re.M)


def pattern(message):
    return ".+".join(map(re.escape, message.split("…")))


@pytest.fixture(name="place")
def _place(tmp_path, synthetic_shards):
    """Files that the faults are made of."""
    (tmp_path / "frames" / "a").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "frames" / "a" / "1.jpg")
    (tmp_path / "frames" / "bad").mkdir()
    (tmp_path / "frames" / "bad" / "1.png").write_bytes(bombs.png(9000, 9000))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    return {"tmp": tmp_path, "frames": tmp_path / "frames", **synthetic_shards}


def run(module, *arguments):
    command.run(module.main, module.define_flags, [str(argument) for argument in arguments])


def make(place, *flags, name="out"):
    run(make_tfrecords, f"--input={place['frames']}", f"--output={place['tmp'] / name}", *flags)


def no_input(place):
    run(make_tfrecords, "--input=/nowhere/videos", f"--output={place['tmp']}/out")


def no_videos(place):
    run(make_tfrecords, f"--input={place['tmp']}/empty", f"--output={place['tmp']}/out")


def unknown_class(place):
    lists = {"classInd": "1 A\n", "trainlist01": "B/x.avi 1\n", "testlist01": "A/y.avi\n"}
    for name, text in lists.items():
        (place["tmp"] / f"{name}.txt").write_text(text)
    make(place, f"--split_dir={place['tmp']}", "--subset=train")


def other_flags(place):
    make(place, "--max_rejected_fraction=1")
    make(place, "--max_rejected_fraction=1", "--short_side=32")


def two_at_once(place):
    (place["tmp"] / "out").mkdir()
    with run_state.lock(str(place["tmp"] / "out")):
        make(place)


def no_shards(place):
    run(train, f"--data={place['frames']}", f"--workdir={place['tmp']}/run")


def cut_shard(place):
    shutil.copytree(place["train"], place["tmp"] / "cut")
    (path,) = (place["tmp"] / "cut").glob("*.tfrecord")
    os.truncate(path, path.stat().st_size // 2)
    run(train, f"--data={place['tmp']}/cut", f"--workdir={place['tmp']}/run")


def unreadable_frames(_):
    """As `run.train` meets it; `tests/training/test_run.py` has the command (slower)."""

    def main(_):
        steps.SampleCount(0.01).add(["frame 3 of video a: wrong checksum", None])
        steps.SampleCount(0.01).add(["frame 3 of video a: wrong checksum"] * 4)

    command.run(main, lambda _: None, [])


def large_batch(place):
    flags = [f"--data={place['train']}", f"--workdir={place['tmp']}/run", *TRAIN]
    run(train, *flags, "--batch_size=33")


def many_negatives(place):
    flags = [f"--data={place['train']}", f"--workdir={place['tmp']}/run", *TRAIN]
    run(train, *flags, "--num_negatives=32")


def diverged(_):
    """As above."""
    watch = health.Watch(type("Model", (), {"weights": ()}))
    watch.note(np.float32("nan"))
    command.run(lambda _: watch.check_loss(7, "none"), lambda _: None, [])


def other_run(place):
    flags = [f"--data={place['train']}", f"--workdir={place['tmp']}/run", *TRAIN]
    settings = command.to_dataclass(
        train.config.TrainConfig, command.parse(train.define_flags, flags)
    )
    (place["tmp"] / "run" / "checkpoints").mkdir(parents=True)
    (place["tmp"] / "run" / "checkpoints" / "ckpt-1.index").write_bytes(b"")
    provenance.save_config(str(place["tmp"] / "run"), settings, [place["train"]])
    run(train, *flags, "--temperature=0.2")


def no_memory(_):
    command.run(lambda _: bytearray(2**46), lambda _: None, [])


def no_encoder(place):
    flags = [f"--input={place['frames']}", f"--output={place['tmp']}/a.npz"]
    run(embed, "--encoder=/nowhere/exported", *flags)


def leakage(place):
    run(evaluate, *ENCODER, f"--train={place['train']}", f"--test={place['train']}")


def unreadable_videos(place):
    run(embed, *ENCODER, f"--input={place['frames']}", f"--output={place['tmp']}/a.npz")


def no_video(place):
    run(embed, *ENCODER, f"--input={place['tmp']}/text.mp4", f"--output={place['tmp']}/a.npz")


def too_large(place):
    path = f"{place['frames']}/bad/1.png"
    run(embed, *ENCODER, f"--input={path}", f"--output={place['tmp']}/a.npz")


def no_server(place):
    flags = ["--server=localhost:1", "--model=a", "--timeout=1"]
    run(client, *flags, f"--input={place['frames']}/a", f"--output={place['tmp']}/a.npz")


def full_disk(place):
    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        make(place, "--max_rejected_fraction=1")


def stopped(place):
    """A signal that comes after the first step, to the command itself."""
    flags = [f"--data={place['train']}", f"--workdir={place['tmp']}/run", *TRAIN]
    add, sent = steps.SampleCount.add, []

    def add_and_stop(self, problems):
        if not sent:  # a second one would end the process at once
            sent.append(True)
            signal.raise_signal(signal.SIGTERM)
        return add(self, problems)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)
        patch.setattr(steps.SampleCount, "add", add_and_stop)
        run(train, *flags, "--steps=30")


def other_worker(_):
    """As `run.train` meets it; `tests/training/test_multi_worker.py` has the command (slow)."""
    strategy = types.SimpleNamespace(cluster_resolver=object())

    def main(_):
        with workers.peer_errors(strategy, "runs/a"):
            raise tf.errors.UnavailableError(None, None, "connection reset by peer")

    command.run(main, lambda _: None, [])


# In the order of the table.
CASES = (
    no_input,
    no_videos,
    make,
    unknown_class,
    other_flags,
    two_at_once,
    no_shards,
    cut_shard,
    unreadable_frames,
    large_batch,
    many_negatives,
    diverged,
    other_run,
    no_memory,
    no_encoder,
    leakage,
    unreadable_videos,
    no_video,
    too_large,
    no_server,
    full_disk,
    stopped,
    other_worker,
    lambda _: run(train, "--no_such_flag=1"),
)


def test_every_row_has_a_case():
    assert len(rows()) == len(CASES) >= 20


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_message_is_what_a_user_sees(number, place, capsys):
    message = rows()[number]
    with pytest.raises(SystemExit) as end:
        CASES[number](place)
    line = capsys.readouterr().err.splitlines()[-1]
    codes = {"Unknown command line flag": 2, "stopped by": 128 + signal.SIGTERM}
    assert end.value.code == next((c for start, c in codes.items() if message.startswith(start)), 1)
    assert re.fullmatch(f"error: {pattern(message)}", line), line


def unreadable_frame(_):
    steps.SampleCount(1.0).add(["frame 3 of video a: wrong checksum", None])


def damaged_checkpoint(place):
    folder = place["tmp"] / "checkpoints"
    for step in (1, 2):
        tf.train.Checkpoint(step=tf.Variable(step)).write(
            checkpoint_files.prefix_of(str(folder), step)
        )
    path = f"{checkpoint_files.prefix_of(str(folder), 2)}.data-00000-of-00001"
    os.truncate(path, os.path.getsize(path) - 1)
    assert checkpoint_files.newest_whole(str(folder)) == 1


def collapse(_):
    health.Watch(type("Model", (), {"weights": ()})).warn(
        10, {"embedding_std": 1e-4, "input_wait_fraction": 0}
    )


def stalled_input(_):
    watch = health.Watch(type("Model", (), {"weights": ()}))
    for step in (10, 20):
        watch.warn(step, {"embedding_std": 1, "input_wait_fraction": 0.5})


def other_versions(place):
    settings = train.config.TrainConfig(data=place["train"], workdir=str(place["tmp"] / "run"))
    (place["tmp"] / "run" / "checkpoints").mkdir(parents=True)
    (place["tmp"] / "run" / "checkpoints" / "ckpt-1.index").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "versions", lambda: {"tensorflow": "2.0"})
        provenance.save_config(settings.workdir, settings, [place["train"]])
    provenance.check_config(settings.workdir, settings, [place["train"]])


def made_again(place):
    with pytest.raises(SystemExit):  # for the bad frame folder
        make(place)
    (shard,) = (place["tmp"] / "out").glob("*.tfrecord")
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(SystemExit):
        make(place)


WARNINGS = (
    unreadable_frame,
    damaged_checkpoint,
    collapse,
    stalled_input,
    other_versions,
    made_again,
)


@pytest.mark.parametrize("number", range(len(WARNINGS)))
def test_the_warning_is_what_a_user_sees(number, place, caplog):
    assert len(rows("warnings")) == len(WARNINGS)
    with caplog.at_level("WARNING", logger="absl"):
        WARNINGS[number](place)
    said = [record.getMessage() for record in caplog.records]
    assert any(re.fullmatch(pattern(rows("warnings")[number]), line) for line in said), said


def test_errors_are_exceptions_of_this_package():
    assert issubclass(errors.FlagError, errors.UserError)
