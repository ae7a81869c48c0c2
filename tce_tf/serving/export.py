"""How does an encoder become a SavedModel that TF Serving and TF Hub users can load?"""

import dataclasses
import json
import os
import re
import shutil
import tempfile

import tensorflow as tf

from tce_tf import errors
from tce_tf.data import locks, remote, storage
from tce_tf.serving import encoder_module, frozen, warmup

SAVED_MODEL = "saved_model.pb"
CONFIG_ASSET = os.path.join("assets.extra", "tce_config.json")
# They run Python code of this process, which a server does not have; the SavedModel writer lets
# them pass, unlike operations of add-on libraries.
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def export_encoder(
    module: encoder_module.EncoderModule,
    output: str,
    version: int | None = None,
    *,
    is_frozen: bool = False,
) -> str:
    """Writes `output/<version>/` and returns its path.

    Written under a temporary name and renamed, or uploaded with `saved_model.pb` last, so that a
    server which watches the folder never loads half an export.

    Args:
      module: the encoder.
      output: folder of the model's versions.
      version: a positive number; one above the highest there by default.
      is_frozen: weights as constants, for servers alone (`frozen.freeze`).

    Raises:
      errors.UserError: the version exists already, the folder cannot be written, or another export
        is writing to it.
    """
    with locks.exclusive(
        storage.join(output, ".lock"), command="export", output=output, flag="output"
    ):
        _remove_unfinished(output)
        return _export(module, output, version, is_frozen)


def _remove_unfinished(output: str) -> None:
    """Gives back the disk that killed exports hold. Call while no other can be writing."""
    if remote.is_remote(output):
        return
    with storage.reported("remove unfinished exports in", output):
        for name in os.listdir(output):
            if re.fullmatch(r"\.\d+-\w+", name):
                shutil.rmtree(os.path.join(output, name))


def _export(module, output: str, version: int | None, is_frozen: bool) -> str:
    storage.make_folder(output)
    if version is None:
        version = max(versions(output), default=0) + 1
    target = storage.join(output, str(version))
    if storage.exists(target):
        raise errors.UserError(f"{target} exists and is not overwritten: choose another --version")
    size = module.config.image_size
    if is_frozen:
        module = frozen.freeze(module)
    else:
        for training in (False, True):  # traced now, or the loaded module could not be called
            images = tf.TensorSpec((None, *module.image_shape), tf.float32, name="images")
            module.__call__.get_concrete_function(images, training=training)
    try:
        beside = None if remote.is_remote(output) else output
        temporary = tempfile.mkdtemp(prefix=f".{version}-", dir=beside)
    except OSError as error:
        raise errors.UserError(f"cannot write to {output}: {error.strerror}") from error
    try:
        with storage.reported("write", target):
            tf.saved_model.save(
                module,
                temporary,
                signatures={
                    "serving_default": module.image_bytes,
                    "frames": module.frames,
                    "clip": module.clip,
                },
                options=tf.saved_model.SaveOptions(namespace_whitelist=[]),
            )
            foreign = operations(temporary) & _PYTHON_OPS
            if foreign:
                raise RuntimeError(f"the export for {size} px holds Python operations: {foreign}")
            os.makedirs(os.path.join(temporary, "assets.extra"), exist_ok=True)
            with open(os.path.join(temporary, CONFIG_ASSET), "w", encoding="utf-8") as file:
                names = [] if is_frozen else module.variable_names
                content = dataclasses.asdict(module.config) | {"variables": names}
                json.dump(content, file, indent=2)
            warmup.write(temporary, module.config, model=os.path.basename(output.rstrip("/")))
            storage.publish_folder(temporary, target, last=SAVED_MODEL)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def versions(output: str) -> list[int]:
    """The version numbers in a model's folder; none where there is no such folder."""
    return [int(name) for name in storage.names(output) if name.isdecimal()]


def operations(path: str) -> set[str]:
    """The kinds of operation in a SavedModel's graph and in its function library."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    with open(os.path.join(path, SAVED_MODEL), "rb") as file:
        saved.ParseFromString(file.read())
    found = set()
    for meta_graph in saved.meta_graphs:
        found.update(node.op for node in meta_graph.graph_def.node)
        for function in meta_graph.graph_def.library.function:
            found.update(node.op for node in function.node_def)
    return found
