"""Trains a frame encoder on shards by Temporally Coherent Embeddings, or resumes such a run.

    python -m tce_tf.train --flagfile=experiments/pretrain_ucf101.flags
    python -m tce_tf.train --flagfile=experiments/pretrain.flags --data=shards --workdir=runs/a

The workdir gets checkpoints, metrics.jsonl, TensorBoard logs, config.json and flags.txt. Starting
again with the same workdir resumes.
"""

from absl import flags

from tce_tf import command, config


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines one flag for each setting of a run."""
    command.define_from_dataclass(config.TrainConfig, flag_values)


def main(values: flags.FlagValues) -> None:
    """Trains."""
    settings = command.to_dataclass(config.TrainConfig, values)
    # TensorFlow is imported only now, so that --help and a bad flag answer at once.
    from tce_tf.training import run

    run.train(settings)


if __name__ == "__main__":
    command.run(main, define_flags)
