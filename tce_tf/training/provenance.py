"""What does a run's result depend on? Settings, versions and data, saved beside it."""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

import tce_tf
from tce_tf import config as config_lib
from tce_tf import errors
from tce_tf.data import storage
from tce_tf.modeling import checkpoint_files

# Settings that say where to stop, what to show or where to run, not what is computed.
FREE_SETTINGS = frozenset(
    "workdir steps log_every checkpoint_every keep max_bad_fraction strategy jit deterministic "
    "export_dir eval_train eval_test eval_every".split()
)

# Compared by their manifests: where shards lie may change.
_DATA_SETTINGS = frozenset({"data", "train", "test"})


def versions() -> dict[str, str]:
    """Versions of all that computes, and whether TensorFlow computes by oneDNN ("1"; "0" without)."""
    return {
        "tce_tf": tce_tf.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "TensorFlow's default"),
    }


def data_manifests(folders: Sequence[str]) -> list[dict[str, str]]:
    """Each shard folder with the SHA-256 of its manifest, which names every shard and video."""
    found = []
    for folder in folders:
        content = storage.read_bytes(storage.join(folder, "manifest.json"))
        found.append({"folder": folder, "manifest": hashlib.sha256(content).hexdigest()})
    return found


def check_config(
    workdir: str, config, folders: Sequence[str], resolved: Mapping | None = None
) -> None:
    """Compares settings with those of the run in the workdir, if it has made a checkpoint.

    Args:
      workdir: the run's folder.
      config: `config.TrainConfig` or `config.FinetuneConfig`.
      folders: its shards.
      resolved: what else was derived from files that may change (the encoder's settings).

    Raises:
      errors.UserError: the workdir holds a run with settings or data that change its numbers, or
        converted weights, which are no run.
    """
    if not checkpoint_files.steps(checkpoint_files.folder_of(workdir)):
        return  # nothing was learned with other settings
    before = read_config(workdir)
    if before["conversion"]:
        raise errors.UserError(
            f"{workdir} holds weights converted from {before['conversion']['checkpoint']}, "
            "without the optimizer and memory bank of a run: train in another --workdir"
        )
    settings = dataclasses.asdict(config)
    if ("train" in before["settings"]) != ("train" in settings):
        raise errors.UserError(f"{workdir} holds a run of another command: take another --workdir")
    # A setting that did not exist yet: its default is what was done before there was a choice.
    then = dataclasses.asdict(type(config)()) | before["settings"]
    changed = [
        f"--{name}: {then[name]!r} then, {value!r} now"
        for name, value in settings.items()
        if name not in FREE_SETTINGS | _DATA_SETTINGS and then[name] != value
    ]
    if [m["manifest"] for m in before["data"]] != [m["manifest"] for m in data_manifests(folders)]:
        changed.append(f"the shards in {', '.join(folders)} are others than the run's")
    elif "train" in settings and _count(then["train"]) != _count(settings["train"]):
        changed.append(f"--train: {then['train']!r} then, {settings['train']!r} now")
    resolved = json.loads(json.dumps(resolved or {}))
    changed += [
        f"{name} of the encoder's weights: {value!r} then, {resolved[name]!r} now"
        for name, value in before["resolved"].items()
        if name in resolved and resolved[name] != value
    ]
    if changed:
        raise errors.UserError(
            f"{workdir} holds a run with other settings ({'; '.join(changed)}): "
            "resume with the same ones or take another --workdir"
        )
    updated = [
        f"{name} {before['versions'].get(name)} then, {version} now"
        for name, version in versions().items()
        if before["versions"].get(name) != version
    ]
    if updated:
        logging.warning(
            "resuming with other versions (%s): results may differ by round-off",
            "; ".join(updated),
        )


def _count(paths: str) -> int:
    return len(config_lib.split_paths(paths))


def save_config(
    workdir: str, config, folders: Sequence[str], resolved: Mapping | None = None
) -> None:
    """Writes `config.json` and `flags.txt`; the arguments are those of `check_config`."""
    settings = dataclasses.asdict(config)
    content = {
        "settings": settings,
        "versions": versions(),
        "data": data_manifests(folders),
        "resolved": dict(resolved or {}),
    }
    path = storage.join(workdir, "config.json")
    storage.write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
    flags = [
        f"--{name}={value}" if not isinstance(value, bool) else f"--{'' if value else 'no'}{name}"
        for name, value in settings.items()
    ]
    storage.write_atomic(storage.join(workdir, "flags.txt"), ("\n".join(flags) + "\n").encode())


def save_conversion(workdir: str, settings: Mapping, conversion: Mapping) -> None:
    """Writes the `config.json` of weights that came from elsewhere.

    Args:
      workdir: the folder.
      settings: what rebuilds the encoder, by the names of `TrainConfig`.
      conversion: `checkpoint`, the file they came from, and what else should be remembered.
    """
    content = {
        "settings": dict(settings),
        "versions": versions(),
        "data": [],
        "conversion": dict(conversion),
    }
    text = json.dumps(content, indent=2) + "\n"
    storage.write_atomic(storage.join(workdir, "config.json"), text.encode())


def read_config(workdir: str) -> dict:
    """What a workdir's `config.json` holds: `settings`, `versions`, `data`, `resolved`, `conversion`.

    `conversion` is what `save_conversion` was given; None for a training run.

    Raises:
      errors.UserError: not a workdir, or a damaged file.
    """
    path = storage.join(workdir, "config.json")
    if storage.size(path) is None:
        raise errors.UserError(f"{path}: No such file: not a training workdir")
    try:
        content = json.loads(storage.read_bytes(path))
        found = {key: content[key] for key in ("settings", "versions", "data")}
        kinds = [type(value) for value in found.values()]
        if kinds != [dict, dict, list] or not all(m["manifest"] for m in found["data"]):
            raise TypeError("settings, versions or data of another kind")
        resolved = content.get("resolved", {})
        if not isinstance(resolved, dict):
            raise TypeError("resolved of another kind")
        return found | {"resolved": resolved, "conversion": content.get("conversion")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise errors.UserError(f"{path}: not a config written by train ({error})") from error
