"""How are shards made on a cluster? Apache Beam calls the same `write_shard`, one element a shard.

    beam_runner.make_tfrecords(
        plan.Options("/mnt/videos", "gs://bucket/shards"),
        beam_options="--runner=FlinkRunner --flink_master=host:8081 --parallelism=64",
    )

Planning and the manifest stay with the process that starts the pipeline. Workers need this package,
the input under the same path (a shared disk), and write to the output themselves. Beam may start a
shard twice, or again after a failure: it is made apart and put in place whole, the bytes are the same.
"""

import contextlib
import io
import re
import shlex

from absl import logging

from tce_tf import errors
from tce_tf.data import conversion, plan, run_state, storage, workers
from tce_tf.data import manifest as manifests

try:
    import apache_beam as beam
    from apache_beam.options import pipeline_options
except ImportError as missing:
    raise errors.UserError(
        "--runner=beam needs Apache Beam; in the project's folder: "
        f"pip install -r requirements.txt apache-beam ({missing})"
    ) from missing


def make_tfrecords(
    options: plan.Options,
    *,
    beam_options: str = "",
    num_workers: int = 0,
    max_rejected_fraction: float = 0.1,
) -> manifests.Manifest:
    """Makes a shard folder, or finishes one, as `conversion.make_tfrecords` does.

    Args:
      options: what to make; the same options on the same input give the same bytes.
      beam_options: Beam's own flags, as on a command line; none = Beam's DirectRunner, here.
      num_workers: decoding processes of each Beam worker thread, 0 = one.
      max_rejected_fraction: of the clips; beyond it the shards are kept and this raises.

    Raises:
      errors.FlagError: Beam refuses its options.
      errors.UserError: bad input, or a pipeline that failed; the shards made so far are kept.
    """
    parsed = parse_options(beam_options)
    storage.make_folder(options.output)
    with run_state.lock(options.output):
        with workers.DecodePool() as pool:
            made = run_state.plan_or_resume(options, pool)
        todo = run_state.unfinished(made)
        if todo:
            _run(todo, parsed, num_workers or 1)
    return conversion.finish(made, max_rejected_fraction)


def parse_options(text: str) -> "pipeline_options.PipelineOptions":
    """Beam's options from one string.

    Raises:
      errors.FlagError: an unknown option or a value that Beam refuses.
    """
    said = io.StringIO()
    try:
        parsed = pipeline_options.PipelineOptions(shlex.split(text))
        with contextlib.redirect_stderr(said):  # argparse prints its usage, pages of it, and exits
            unknown = parsed.get_all_options(drop_default=True, retain_unknown_options=False)
            every = parsed.get_all_options(drop_default=True, retain_unknown_options=True)
    except (SystemExit, ValueError) as error:
        reason = (said.getvalue().strip().splitlines() or [str(error)])[-1]
        raise errors.FlagError(f"--beam_options={text}: {reason}") from error
    if strange := sorted(set(every) - set(unknown)):
        logging.warning("options that Beam itself does not know, left to its runner: %s", strange)
    return parsed


class _WriteShard(beam.DoFn):
    """Makes the shard it is given. The decoding processes live as long as the Beam worker."""

    def __init__(self, num_workers: int):
        self._num_workers = num_workers
        self._pool = None

    def process(self, shard: plan.Shard):
        if self._pool is None:
            self._pool = workers.DecodePool(self._num_workers)
        conversion.write_shard(shard, self._pool)
        yield shard.number

    def teardown(self):
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _run(shards: list[plan.Shard], options, num_workers: int) -> None:
    logging.info("Apache Beam makes %d shards", len(shards))
    try:
        with beam.Pipeline(options=options) as pipeline:
            # Reshuffle: without it a runner may give all shards to the worker that lists them.
            elements = pipeline | beam.Create(shards) | beam.Reshuffle()
            _ = elements | "write_shard" >> beam.ParDo(_WriteShard(num_workers))
    except Exception as error:  # each runner has errors of its own; all end the run
        text = str(error)
        # A worker's error arrives as text: `...UserError: <message> [while running 'write_shard']`.
        ours = re.search(r"UserError: (.+?)(?: \[while running|\n|$)", text)
        if ours is None:
            logging.exception("the Beam pipeline failed")
        reason = ours[1] if ours else (text.strip().splitlines() or [type(error).__name__])[-1]
        raise errors.UserError(
            f"the Beam pipeline failed: {reason}; finished shards are kept, the same command goes on"
        ) from error
