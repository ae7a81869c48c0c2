"""Do export, evaluate and embed refuse what they cannot use, in one line that names the flag?"""

import pytest

from tce_tf import command, config, embed, errors, evaluate, export, finetune, train
from tce_tf.training import setup


def fail(module, *arguments, capsys):
    with pytest.raises(SystemExit) as end:
        command.run(module.main, module.define_flags, arguments)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return end.value.code, line


def test_export_of_what_is_no_workdir(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no run")
    for workdir in (tmp_path, tmp_path / "nowhere", tmp_path / "notes.txt"):
        code, line = fail(export, f"--workdir={workdir}", f"--output={tmp_path}/out", capsys=capsys)
        assert code == 1 and f"--workdir={workdir}" in line and "not a training workdir" in line
    (tmp_path / "saved_model.pb").write_text("")
    code, line = fail(export, f"--workdir={tmp_path}", f"--output={tmp_path}/out", capsys=capsys)
    assert code == 1 and "is an export already" in line
    assert not (tmp_path / "out").exists()


def test_export_of_a_run_without_a_whole_checkpoint(tmp_path, capsys):
    (tmp_path / "config.json").write_text(
        '{"settings": {"backbone": "resnet18", "embedding_width": 16, "image_size": 32, '
        '"resize_mode": "crop"}, "versions": {}, "data": []}'
    )
    arguments = (f"--workdir={tmp_path}", f"--output={tmp_path}/out")
    code, line = fail(export, *arguments, capsys=capsys)
    assert code == 1 and "has no checkpoint yet" in line
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-5.index").write_bytes(b"cut short")
    code, line = fail(export, *arguments, capsys=capsys)
    assert code == 1 and "damaged checkpoints only" in line


@pytest.mark.parametrize("arguments", [(), ("--workdir=w",), ("--output=o",)])
def test_export_needs_both_ends(arguments, capsys):
    code, line = fail(export, *arguments, capsys=capsys)
    assert code == 2 and "--output and one of --workdir, --checkpoint" in line


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        (evaluate, ("--encoder=none", "--train=a"), "--train and --test"),
        (evaluate, ("--train=a", "--test=b"), "--encoder"),
        (evaluate, ("--encoder=none", "--train=a", "--test=b", "--knn_k=0"), "--knn_k"),
        (embed, ("--encoder=none", "--input=a"), "--input and --output"),
        (embed, ("--encoder=none", "--input=a", "--output=b.csv"), "--output=b.csv"),
        (embed, ("--input=a", "--output=b.npz"), "--encoder"),
    ],
)
def test_flags_that_are_missing_or_wrong_exit_2(module, arguments, named, capsys):
    code, line = fail(module, *arguments, capsys=capsys)
    assert code == 2 and named in line, line


def test_an_encoder_that_is_nothing_is_named(tmp_path, capsys):
    for module, rest in (
        (evaluate, ("--train=a", "--test=b")),
        (embed, ("--input=a", "--output=b.npz")),
    ):
        code, line = fail(module, f"--encoder={tmp_path}", *rest, capsys=capsys)
        assert code == 1 and f"--encoder={tmp_path}" in line


def test_an_export_does_not_go_into_its_workdir(tmp_path, capsys):
    """Its lock and its config would be taken for the run's."""
    (tmp_path / "config.json").write_text("{}")
    for flags in (
        (f"--workdir={tmp_path}",),
        (f"--checkpoint={tmp_path}/checkpoints/ckpt-3",),
    ):
        code, line = fail(export, *flags, f"--output={tmp_path}/../{tmp_path.name}", capsys=capsys)
        assert code == 2 and "must be another folder than the workdir" in line
    for module in (train, finetune):
        flags = [f"--workdir={tmp_path}", f"--export_dir={tmp_path}/"]
        values = command.parse(module.define_flags, flags)
        cls = config.TrainConfig if module is train else config.FinetuneConfig
        with pytest.raises(errors.FlagError, match="--export_dir=.*another folder than --workdir"):
            setup.make_folders(command.to_dataclass(cls, values))
