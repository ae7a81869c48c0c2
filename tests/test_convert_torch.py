"""Does the command `convert_torch` work as a user types it, with and without PyTorch?"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch_states


def run(*flags, path=""):
    return subprocess.run(
        [sys.executable, "-m", "tce_tf.convert_torch", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(path)},
    )


def fail(*flags, code=1, path=""):
    """The one line that a failing command ends with."""
    done = run(*flags, path=path)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(name="no_torch")
def _no_torch(tmp_path):
    """A folder that hides PyTorch, should it be there."""
    folder = tmp_path / "no_torch"
    folder.mkdir()
    (folder / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    return folder


def test_without_pytorch(no_torch, tmp_path):
    (tmp_path / "a.pth").touch()
    line = fail(f"--checkpoint={tmp_path}/a.pth", f"--workdir={tmp_path}/w", path=no_torch)
    assert "convert_torch needs PyTorch" in line and "pip install 'torch" in line
    assert not (tmp_path / "w").exists()


def test_bad_flags_and_paths():
    assert "--checkpoint is needed" in fail("--workdir=w", code=2)
    assert "--workdir and --export_dir" in fail("--checkpoint=a.pth", code=2)
    assert "--reverse takes" in fail("--checkpoint=a.pth", "--reverse", code=2)
    assert "--reverse takes" in fail(
        "--checkpoint=a.pth", "--workdir=w", "--reverse", "--backbone=resnet18", code=2
    )
    assert "vgg" in fail("--checkpoint=a.pth", "--workdir=w", "--backbone=vgg", code=2)
    assert "nowhere.pth: no such file" in fail("--checkpoint=nowhere.pth", "--workdir=w")
    line = fail("--checkpoint=a.pth", "--workdir=nowhere", "--reverse")
    assert "nowhere" in line and "not a training workdir" in line


def module_of(state, torch):
    """A torch module that has exactly these keys: what strict loading compares with."""
    root = torch.nn.Module()
    for key, array in state.items():
        *path, name = key.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        module.register_buffer(name, torch.zeros_like(torch.from_numpy(np.array(array))))
    return root


def test_a_true_pth_goes_there_and_back(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is optional (pip install torch)")
    state = torch_states.pretraining("resnet18", 32)
    tensors = {k: torch.from_numpy(a) for k, a in torch_states.parallel(state).items()}
    original, back = tmp_path / "a.pth", tmp_path / "back.pth"
    torch.save({"epoch": 3, "state_dict": tensors}, original)
    there = run(f"--checkpoint={original}", f"--workdir={tmp_path}/w", f"--export_dir={tmp_path}/e")
    assert there.returncode == 0, there.stderr
    assert there.stdout.split() == [f"{tmp_path}/w", f"{tmp_path}/e/1"]
    done = run("--reverse", f"--workdir={tmp_path}/w", f"--checkpoint={back}")
    assert done.returncode == 0, done.stderr

    loaded = torch.load(back, weights_only=True)
    module_of(state, torch).load_state_dict(loaded, strict=True)
    for key, array in torch_states.weights_only(state).items():
        assert torch.equal(loaded[key], torch.from_numpy(array)), key

    assert "not empty" in fail(f"--checkpoint={original}", f"--workdir={tmp_path}/w")
    assert "not overwritten" in fail(
        "--reverse", f"--workdir={tmp_path}/w", f"--checkpoint={original}"
    )
    assert "are those of resnet18" in fail(
        f"--checkpoint={original}", f"--workdir={tmp_path}/x", "--backbone=resnet50"
    )
    (tmp_path / "text.pth").write_text("no weights")
    assert "text.pth: not a .pth" in fail(
        f"--checkpoint={tmp_path}/text.pth", f"--workdir={tmp_path}/x"
    )
