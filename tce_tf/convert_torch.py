"""Converts the weights of the published PyTorch models, and back.

    python -m tce_tf.convert_torch --checkpoint=tce_resnet18.pth --workdir=runs/published
    python -m tce_tf.convert_torch --checkpoint=tce_resnet18.pth --export_dir=exported/published
    python -m tce_tf.convert_torch --reverse --workdir=runs/a --checkpoint=a.pth

TCE's pre-training and fine-tuning checkpoints of both versions and torchvision's ResNets are
recognised by their keys; what a file has beside known weights is named, or refused. The way back
writes a plain state dict for `load_state_dict`. Needs PyTorch: pip install torch.
"""

from absl import flags

from tce_tf import command, config, errors


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of convert_torch."""
    common = {"flag_values": flag_values}
    flags.DEFINE_string("checkpoint", "", "The .pth to read, or with --reverse to write.", **common)
    flags.DEFINE_string(
        "workdir",
        "",
        "Workdir to make; with --reverse the one whose newest checkpoint is written.",
        **common,
    )
    flags.DEFINE_string("export_dir", "", "Export the encoder here, under a new version.", **common)
    flags.DEFINE_enum(
        "backbone", None, config.BACKBONES, "Must be this one; inferred otherwise.", **common
    )
    flags.DEFINE_bool("reverse", False, "Write a .pth from a workdir.", **common)
    flags.DEFINE_integer(
        "image_size",
        224,
        "Image size of the encoder, in pixels.",
        lower_bound=32,
        upper_bound=config.MAX_IMAGE_SIZE,
        **common,
    )
    flags.DEFINE_enum(
        "resize_mode",
        "auto",
        ("auto", "crop", "squash"),
        "How frames become squares (see train). auto: squash for TCE's models, crop for torchvision's.",
        **common,
    )


def main(values: flags.FlagValues) -> None:
    """Converts one file and prints what it made."""
    if not values.checkpoint:
        raise errors.FlagError("--checkpoint is needed: a .pth")
    if values.reverse:
        if not values.workdir or values.export_dir or values.backbone:
            raise errors.FlagError("--reverse takes --workdir and --checkpoint only")
    elif not (values.workdir or values.export_dir):
        raise errors.FlagError("one of --workdir and --export_dir is needed, or both")

    from tce_tf.modeling import torch_file
    from tce_tf.training import torch_conversion

    if values.reverse:
        torch_file.save(values.checkpoint, torch_conversion.torch_state(values.workdir))
        print(values.checkpoint)
        return
    made = torch_conversion.convert(
        torch_file.load(values.checkpoint),
        values.checkpoint,
        workdir=values.workdir,
        export_dir=values.export_dir,
        backbone=values.backbone or "",
        image_size=values.image_size,
        resize_mode=values.resize_mode,
    )
    print("\n".join(made))


if __name__ == "__main__":
    command.run(main, define_flags)
