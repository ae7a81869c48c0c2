"""Fine-tunes an encoder for action recognition on labelled shards, or resumes such a run.

    python -m tce_tf.finetune --encoder=exported/a --train=shards/train --test=shards/test \\
        --workdir=runs/finetune
    python -m tce_tf.finetune --flagfile=experiments/finetune_ucf101.flags

A frame from each third of a video, logits summed; test videos are scored on 19 evenly spaced frames.
The workdir gets the last and the best checkpoint, metrics.jsonl, TensorBoard logs, results.json and
report.html, one page to look at.
Starting again with the same workdir resumes.
"""

from absl import flags

from tce_tf import command, config


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines one flag for each setting of a run."""
    command.define_from_dataclass(config.FinetuneConfig, flag_values)


def main(values: flags.FlagValues) -> None:
    """Fine-tunes and prints the scores."""
    settings = command.to_dataclass(config.FinetuneConfig, values)
    # TensorFlow is imported only now, so that --help and a bad flag answer at once.
    from tce_tf.data import storage
    from tce_tf.training import finetuning, metrics_log
    from tce_tf.visualization import results_page

    results = finetuning.finetune(settings).results
    page = storage.join(settings.workdir, "report.html")
    metrics = metrics_log.read(storage.join(settings.workdir, "metrics.jsonl"))
    results_page.write(page, results_page.finetuning_page(results, metrics))
    print(
        f"{settings.test}: top-1 {100 * results['top1']:.1f} %, top-5 {100 * results['top5']:.1f} % "
        f"at step {results['step']}"
    )
    if best := results["best"]:
        print(
            f"best, chosen on these videos: top-1 {100 * best['top1']:.1f} % at step {best['step']}"
        )
    print(page)


if __name__ == "__main__":
    command.run(main, define_flags)
