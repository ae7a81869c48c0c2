"""Exports the encoder or classifier of a run as a SavedModel for TF Serving, TF Hub and fine-tuning.

python -m tce_tf.export --workdir=runs/a --output=exported/a
"""

import os

from absl import flags

from tce_tf import command, errors


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of export."""
    flags.DEFINE_string(
        "workdir",
        "",
        "Workdir of train or finetune; its newest checkpoint.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "checkpoint",
        "",
        "A checkpoint of a run (.../checkpoints/ckpt-<step>; of finetune .../best/ckpt-<step> as well) "
        "instead of its newest.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output", "", "Folder of the model, as in exported/<name>.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "version",
        0,
        "Version number; 0 takes one above the highest there.",
        lower_bound=0,
        upper_bound=2**63 - 1,  # TF Serving's
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "frozen",
        False,
        "Weights as constants: faster on single images, for servers alone (no training, not for "
        "--encoder).",
        flag_values=flag_values,
    )


def main(values: flags.FlagValues) -> None:
    """Exports one encoder, or one classifier, and prints where it is."""
    workdir, checkpoint = values.workdir, values.checkpoint
    if checkpoint and not workdir:
        folder = checkpoint if "://" in checkpoint else os.path.abspath(checkpoint)
        workdir = os.path.dirname(os.path.dirname(folder))
    if not workdir or not values.output:
        raise errors.FlagError("--output and one of --workdir, --checkpoint are needed")

    from tce_tf.data import storage
    from tce_tf.serving import export, finetuned, loader

    if storage.same_folder(workdir, values.output):
        raise errors.FlagError(f"--output={values.output}: must be another folder than the workdir")
    if loader.find_saved_model(workdir):
        raise errors.UserError(f"--workdir={workdir} is an export already: give a training workdir")
    if not storage.exists(storage.join(workdir, "config.json")):
        raise errors.UserError(
            f"--workdir={workdir}: not a training workdir (no config.json there)"
        )
    load = loader.load_encoder
    if finetuned.is_finetuning(workdir):
        load = finetuned.load_classifier
    module = load(workdir, checkpoint=checkpoint or None)
    version = values.version or None
    print(export.export_encoder(module, values.output, version, is_frozen=values.frozen))


if __name__ == "__main__":
    command.run(main, define_flags)
