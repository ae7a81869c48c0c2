"""Embeds a video or a folder of pictures by an encoder in TF Serving.

    python -m tce_tf.serving.client --server=localhost:8500 --model=ucf101 --input=video.mp4 \
        --output=video.npz

The .npz holds `features`, `embeddings`, `names` and `timestamps` (microseconds), a row a frame: what
`embed` writes with the same encoder.
"""

import io
import os

import numpy as np
from absl import flags
from PIL import Image

from tce_tf import command, errors
from tce_tf.data import layouts, pictures, remote, storage, video


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of the client."""
    for name, default, text in (
        (
            "server",
            "localhost:8500",
            "Host and port; TF Serving's are 8500 (grpc) and 8501 (rest).",
        ),
        ("model", "", "The model's name in the server."),
        ("input", "", "Video, or folder of pictures."),
        ("output", "", "File to write, .npz."),
    ):
        flags.DEFINE_string(name, default, text, flag_values=flag_values)
    flags.DEFINE_enum(
        "protocol",
        "grpc",
        ("grpc", "rest"),
        "grpc sends frames as they are, rest sends them as PNG files in JSON.",
        flag_values=flag_values,
    )
    for name, default, minimum, maximum, text in (
        ("version", 0, 0, 2**63 - 1, "Version of the model; 0 for the newest."),
        ("batch_size", 16, 1, 2**20, "Frames a request; fewer where they are very large."),
        ("timeout", 60, 1, 86_400, "Seconds a request may take."),
    ):
        bounds = {"lower_bound": minimum, "upper_bound": maximum}
        flags.DEFINE_integer(name, default, text, **bounds, flag_values=flag_values)


def embed(model, path: str, *, protocol: str, batch_size: int) -> dict[str, np.ndarray]:
    """Has every frame of a video embedded.

    Args:
      model: `remote_model.GrpcModel` or `RestModel` of an encoder of single frames.
      path: video file or folder of pictures.
      protocol: `grpc` or `rest`: how frames are sent.
      batch_size: frames a request.

    Returns:
      `features` float32 [n, F], `embeddings` float32 [n, D], `names` str [n], `timestamps` int64 [n] in
      microseconds.

    Raises:
      errors.UserError: no readable frame, or the server's error.
    """
    parts: dict[str, list] = {"features": [], "embeddings": [], "timestamps": []}
    frames = video.iterate_frames(path)
    try:
        for batch in pictures.batches(frames, batch_size):
            timestamps, images = zip(*batch, strict=True)
            if protocol == "grpc":
                outputs = model.predict("frames", {"frames": np.stack(images)})
            else:
                files = np.array([_png(image) for image in images], object)
                outputs = model.predict("serving_default", {"image_bytes": files})
            missing = {"features", "embeddings"} - set(outputs)
            if missing:
                raise errors.UserError(f"the model gives {sorted(outputs)}: is it an encoder?")
            for name in ("features", "embeddings"):
                shape = (len(images), *(parts[name] or [outputs[name]])[0].shape[1:])
                if outputs[name].ndim != 2 or outputs[name].shape != shape:
                    raise errors.UserError(
                        f"the model answers {len(images)} frames by {name} of shape "
                        f"{outputs[name].shape}: is it an encoder?"
                    )
                parts[name].append(outputs[name])
            parts["timestamps"].append(np.array(timestamps, np.int64))
    except pictures.VideoError as error:
        raise errors.UserError(f"--input={path}: {error}") from error
    arrays = {name: np.concatenate(rows) for name, rows in parts.items()}
    name = layouts.stem(os.path.basename(os.path.abspath(path)))
    return arrays | {"names": np.full(len(arrays["timestamps"]), name)}


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def main(values: flags.FlagValues) -> None:
    """Embeds and says how much."""
    if not values.model or not values.input or not values.output:
        raise errors.FlagError("--model, --input and --output are needed")
    if not values.output.endswith(".npz"):
        raise errors.FlagError(f"--output={values.output}: must end in .npz")
    remote.require_local(values.output, "output", "a file")

    from tce_tf.serving import remote_model

    kind = remote_model.GrpcModel if values.protocol == "grpc" else remote_model.RestModel
    model = kind(values.server, values.model, values.version or None, values.timeout)
    arrays = embed(model, values.input, protocol=values.protocol, batch_size=values.batch_size)
    file = io.BytesIO()
    np.savez(file, **arrays)
    storage.make_folder(os.path.dirname(values.output) or ".")
    storage.write_atomic(values.output, file.getvalue())
    print(f"{values.output}: {len(arrays['timestamps'])} rows")


if __name__ == "__main__":
    command.run(main, define_flags)
