"""Is a `.pth` read without running anything in it, and written so that PyTorch loads it?"""

import argparse
import collections
import os
import sys
import types

import numpy as np
import pytest

from tce_tf import errors
from tce_tf.modeling import torch_file

WHY = "PyTorch is optional (pip install torch)"


def test_without_pytorch_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").touch()
    for use in (
        lambda: torch_file.load(str(tmp_path / "a.pth")),
        lambda: torch_file.save(str(tmp_path / "b.pth"), {"a": np.zeros(2)}),
    ):
        with pytest.raises(errors.UserError, match=r"needs PyTorch.*pip install 'torch>=2.6'"):
            use()
    old = types.ModuleType("torch")
    old.__version__ = (1, 13)
    monkeypatch.setitem(sys.modules, "torch", old)
    with pytest.raises(errors.UserError, match="too old.*pip install"):
        torch_file.load(str(tmp_path / "a.pth"))
    with pytest.raises(errors.UserError, match="nowhere.pth: no such file"):
        torch_file.load("nowhere.pth")


def test_what_is_written_is_what_pytorch_reads(tmp_path):
    torch = pytest.importorskip("torch", reason=WHY)
    path = str(tmp_path / "new" / "a.pth")
    arrays = {
        "kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4).T,
        "count": np.array(3, np.int64),
    }
    torch_file.save(path, arrays)
    loaded = torch.load(path, weights_only=True)
    assert loaded["kernel"].is_contiguous() and loaded["kernel"].dtype == torch.float32
    assert loaded["count"].shape == () and loaded["count"].dtype == torch.int64
    for found in (torch_file.load(path), loaded):
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array)
    assert os.listdir(tmp_path / "new") == ["a.pth"]
    with pytest.raises(errors.UserError, match="exists and is not overwritten"):
        torch_file.save(path, arrays)
    (tmp_path / "file").touch()
    with pytest.raises(errors.UserError, match="cannot be written"):
        torch_file.save(str(tmp_path / "file" / "b.pth"), arrays)


def test_half_a_file_is_never_there(tmp_path, monkeypatch):
    def breaks(tensors, path):
        with open(path, "wb") as file:
            file.write(b"half")
        assert os.listdir(tmp_path) == [os.path.basename(path)] != ["a.pth"]
        raise RuntimeError("disk full\nand a traceback of C++")

    fake = types.SimpleNamespace(__version__=(9,), from_numpy=lambda array: array, save=breaks)
    monkeypatch.setitem(sys.modules, "torch", fake)
    with pytest.raises(errors.UserError, match="a.pth cannot be written: disk full$"):
        torch_file.save(str(tmp_path / "a.pth"), {"a": np.zeros(2)})
    assert not os.listdir(tmp_path)


class Settings(dict):
    """As yacs has it: a dict of a class that PyTorch does not trust, with attributes."""

    def __init__(self):
        self.__dict__["frozen"] = True


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_settings_beside_the_weights_do_not_hinder(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason=WHY)
    settings = Settings()
    settings["inner"] = Settings()
    weights = collections.OrderedDict(a=torch.full([2], 0.5, dtype=torch.bfloat16))
    contents = {
        "config": settings,
        "opt": argparse.Namespace(lr=1),
        "best": np.float64(3),
        "state_dict": weights,
    }
    path = str(tmp_path / "a.pth")
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    loaded = torch_file.load(path)
    assert set(loaded) == set(contents)
    assert type(loaded["config"]) is dict and type(loaded["best"]) is torch_file._StandIn
    assert loaded["state_dict"]["a"].dtype == np.float32
    np.testing.assert_array_equal(loaded["state_dict"]["a"], [0.5, 0.5])


class Command:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def test_nothing_in_a_file_is_run(tmp_path):
    torch = pytest.importorskip("torch", reason=WHY)
    path, trace = str(tmp_path / "a.pth"), tmp_path / "trace"
    for function, argument in (
        (os.system, f"touch {trace}"),
        (os.mkdir, str(trace)),
        (eval, f"open({str(trace)!r}, 'w')"),
        (exec, f"open({str(trace)!r}, 'w')"),
    ):
        torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Command(function, argument)}, path)
        with pytest.raises(errors.UserError, match="not a .pth that PyTorch can read safely"):
            torch_file.load(path)
        assert not trace.exists()


def test_damaged_and_foreign_files_are_one_line(tmp_path):
    torch = pytest.importorskip("torch", reason=WHY)
    whole, path = tmp_path / "whole.pth", tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1000)}, whole)
    for content in (b"", b"hello", b"\x80\x04N.", whole.read_bytes()[:2000], b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(errors.UserError, match="not a .pth that PyTorch can read") as caught:
            torch_file.load(str(path))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
