"""Does pre-training help on real video? Recipes at equal steps, each under every protocol.

    python experiments/benchmarks/bench_real_video.py --data=DIR

From videos to table in one go: shards of each split, pre-training by each recipe, frozen features under
kNN, linear probe and retrieval, fine-tuning from each encoder and from scratch; beside them random
weights and the floor of `mean_frame.py`. Frozen, an encoder sees frames as it was trained: squashed
(released, paper) or their central square (small), so random weights stand there under both; fine-tuning
squashes in every row. `--data` is a folder with `splits/combined9` (lists as UCF101's), and
`ut_interaction_background`, unlabelled clips `set1_seqNN_...` of which a split's pre-training takes
those of its training sequences. Without --data it runs on clips it makes itself, which shows only that
it runs.

Every cell is a command of the project with a JSON of its own under --work: what is there is not done
again, what was stopped goes on, what other settings made is refused. The JSONs of the README's table
are in experiments/results/real_video; a copy of that as --work prints it, and goes on from there.
"""

import glob
import json
import os
import re
import subprocess
import sys
import tempfile

import harness  # isort: skip -- makes tce_tf importable
import mean_frame
import numpy as np

RECIPES = {
    "released": "pretrain_released.flags",
    "paper": "pretrain.flags",
    "small": "pretrain_small.flags",
}
# Rows below the floor; those of recipes are called by their flag files.
ROWS = {
    "random": "random weights, squashed",
    "random-crop": "random weights, central square",
    "scratch": "from scratch",
} | {recipe: f"`{file}`" for recipe, file in RECIPES.items()}
# The column's title -> where its figure stands: file, key of the whole, key in per_dataset.
COLUMNS = {
    "kNN": ("scores", "knn.top1"),
    "linear": ("scores", "linear.top1"),
    "R@1": ("scores", "retrieval.r1"),
    "R@5": ("scores", "retrieval.r5"),
    "fine-tuned": ("finetune", "top1"),
}


class Work:
    """The cells of the comparison, each made once, under one folder."""

    def __init__(self, arguments, root: str):
        self._arguments, self._root = arguments, root

    def path(self, *parts: str) -> str:
        """A path under the work folder."""
        return os.path.join(self._root, *parts)

    def run(self, command: str, *flags: str) -> None:
        """Runs a command of the project; raises CalledProcessError where it fails."""
        line = [sys.executable, "-m", f"tce_tf.{command}", *flags]
        print("$ " + " ".join(line[1:]), flush=True)
        subprocess.run(line, cwd=harness.ROOT, check=True)

    def result(self, kind: str, name: str) -> str:
        """The JSON of a cell: kind `scores` or `finetune`."""
        file = f"{name}.json" if kind == "scores" else os.path.join(name, "results.json")
        return self.path(kind, file)

    def has(self, *cells: tuple[str, str]) -> bool:
        """Whether the JSONs of all these cells, (kind, name), are there."""
        return all(os.path.exists(self.result(*cell)) for cell in cells)

    def claim(self, cell: str, *command: str) -> None:
        """Notes the command that makes a cell; SystemExit where the cell is of another command."""
        path = self.path("commands", f"{cell}.txt")
        text = "\n".join(command).replace(self._root, "WORK").replace(harness.ROOT, "ROOT")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a+", encoding="utf-8") as file:
            file.seek(0)
            found = file.read()
            if not found:
                file.write(text)
            elif found != text:
                raise SystemExit(f"error: {path} says other settings: take another --work")

    def make_shards(
        self, data: str, split_dir: str, split: int, more_test_lists: tuple[str, ...] = ()
    ) -> None:
        """`train<split>` and `test<split>`, and `background<split>` where there is footage for it."""
        for subset in ("train", "test"):
            self.run(
                "make_tfrecords", f"--input={data}", "--layout=ucf101", f"--split_dir={split_dir}",
                f"--split={split}", f"--subset={subset}", f"--short_side={self._arguments.short_side}",
                f"--output={self.path('shards', f'{subset}{split}')}",
            )  # fmt: skip
        test_list = os.path.join(split_dir, f"testlist{split:02d}.txt")
        clips = background_of(data, [test_list, *more_test_lists])
        if clips:
            # A folder of links: paths of a CSV would have to lie below the CSV's own folder.
            folder = self.path("background", str(split))
            os.makedirs(folder, exist_ok=True)
            for clip in clips:
                link = os.path.join(folder, os.path.basename(clip))
                if not os.path.lexists(link):
                    os.symlink(clip, link)
            self.run(
                "make_tfrecords", f"--input={folder}", "--layout=flat",
                f"--short_side={self._arguments.short_side}",
                f"--output={self.path('shards', f'background{split}')}",
            )  # fmt: skip

    def pretrain(self, recipe: str, split: int, seed: int) -> str:
        """Trains by a recipe at the common sizes, unless all is known of it; returns the workdir."""
        name = f"{recipe}-split{split}-seed{seed}"
        workdir = self.path("runs", name)
        flag_file = os.path.join(harness.ROOT, "experiments", RECIPES[recipe])
        flags = [
            f"--workdir={workdir}", f"--seed={seed}",
            f"--steps={self._arguments.steps}", f"--epochs={self._arguments.epochs}",
            f"--image_size={self._arguments.image_size}",
            f"--batch_size={self._arguments.batch_size}",
        ]  # fmt: skip
        if recipe != "small":  # the recipe that was made for this much data has a K of its own
            flags.append(f"--num_negatives={self._arguments.num_negatives}")
        if not self._arguments.data:  # there are fewer clips than that
            flags.append("--num_negatives=8")
        with open(flag_file, encoding="utf-8") as file:
            recipe_flags = [line.strip() for line in file if line.startswith("--")]
        self.claim(f"train-{name}", *recipe_flags, *flags)
        if not self.has(("scores", name), ("finetune", name)):
            data = [self.path("shards", f"{part}{split}") for part in ("train", "background")]
            data = [folder for folder in data if os.path.exists(f"{folder}/manifest.json")]
            self.run("train", f"--flagfile={flag_file}", f"--data={','.join(data)}", *flags)
        return workdir

    def evaluate(self, name: str, encoder: str, split: int, *, resize_mode: str = "squash") -> None:
        """Frozen features of an encoder under kNN, linear probe and retrieval.

        `resize_mode` is that of random weights: an encoder has its own.
        """
        output = self.result("scores", name)
        flags = (
            f"--encoder={encoder}", *self._both(split), f"--output={output}",
            "--protocol=knn,linear,retrieval,coherence",
            f"--image_size={self._arguments.image_size}", f"--resize_mode={resize_mode}",
        )  # fmt: skip
        self.claim(f"evaluate-{name}", *flags)
        if not self.has(("scores", name)):
            self.run("evaluate", *flags)

    def finetune(self, name: str, encoder: str, split: int, seed: int) -> None:
        """Fine-tunes an encoder, or from scratch."""
        workdir = self.path("finetune", name)
        epochs = self._arguments.finetune_epochs
        flags = (
            f"--encoder={encoder}", *self._both(split), f"--workdir={workdir}",
            f"--seed={seed}", f"--epochs={epochs}", f"--decay_epochs={max(1, 3 * epochs // 4)}",
            f"--learning_rate={self._arguments.finetune_rate}",
            f"--batch_size={self._arguments.batch_size}",
            f"--image_size={self._arguments.image_size}", "--resize_mode=squash",
        )  # fmt: skip
        self.claim(f"finetune-{name}", *flags)
        if not self.has(("finetune", name)):
            self.run("finetune", *flags)

    def _both(self, split):
        return [f"--{side}={self.path('shards', f'{side}{split}')}" for side in ("train", "test")]

    def figure(self, column: str, name: str, dataset: str) -> float:
        """A figure in percent: `all`, or that of a data set; nan where it was not made."""
        kind, key = COLUMNS[column]
        if not self.has((kind, name)):
            return float("nan")
        with open(self.result(kind, name), encoding="utf-8") as file:
            found = json.load(file)
        if dataset != "all":
            found = found["per_dataset"].get(dataset, {})
        return 100 * found.get(key, float("nan"))

    def mean_frame_floor(self, split: int) -> dict[str, float]:
        """Top-1 in percent of 1-NN on mean frames, of all test videos and by data set."""
        path = self.result("scores", f"floor-split{split}")
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            sides = [flag.split("=")[1] for flag in self._both(split)]
            scores = harness.in_process(mean_frame.scores, *sides).value
            with open(f"{path}.tmp", "w", encoding="utf-8") as file:
                json.dump(scores, file)
            os.replace(f"{path}.tmp", path)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def background_of(data: str, test_lists: list[str]) -> list[str]:
    """Unlabelled clips of sequences that no clip of these lists is from."""
    tested: set[str] = set()
    for path in test_lists:
        with open(path, encoding="utf-8") as file:
            tested |= set(re.findall(r"set1_seq\d+", file.read()))
    clips = sorted(glob.glob(os.path.join(data, "ut_interaction_background", "*")))
    return [c for c in clips if re.match(r"set1_seq\d+", os.path.basename(c))[0] not in tested]


def cells_of(split: int, recipes, seeds) -> list[tuple[str, str]]:
    """Every cell of a split, as (kind, name)."""
    runs = [f"{recipe}-split{split}-seed{seed}" for recipe in recipes for seed in seeds]
    return [
        *(("scores", f"{name}-split{split}") for name in ("random", "random-crop", "floor")),
        *(("finetune", f"scratch-split{split}-seed{seed}") for seed in seeds),
        *((kind, run) for run in runs for kind in ("scores", "finetune")),
    ]


def compare(work: Work, arguments, data, split_dir, splits, seeds) -> dict[str, float]:
    """Makes every cell and prints the tables; returns the figures the goals are about."""
    means: dict = {}
    recipes = arguments.recipes.split(",")
    for split in splits:
        if not work.has(*cells_of(split, recipes, seeds)):
            work.make_shards(data, split_dir, split)
        work.evaluate(f"random-split{split}", "none", split)
        work.evaluate(f"random-crop-split{split}", "none", split, resize_mode="crop")
        work.mean_frame_floor(split)
        for seed in seeds:
            work.finetune(f"scratch-split{split}-seed{seed}", "none", split, seed)
            for recipe in recipes:
                name = f"{recipe}-split{split}-seed{seed}"
                workdir = work.pretrain(recipe, split, seed)
                work.evaluate(name, workdir, split)
                work.finetune(name, workdir, split, seed)
    datasets = list(work.mean_frame_floor(splits[0]))
    for dataset in datasets:
        floor = [work.mean_frame_floor(split)[dataset] for split in splits]
        rows = [("mean frame's pixels, 1-NN", _shown(floor), *[""] * (len(COLUMNS) - 1))]
        for run in [*(row for row in ROWS if row not in RECIPES), *recipes]:
            cells = []
            for column in COLUMNS:
                names = [
                    f"{run}-split{split}" + ("" if "random" in run else f"-seed{seed}")
                    for split in splits
                    for seed in (seeds[:1] if "random" in run else seeds)
                ]
                found = [work.figure(column, name, dataset) for name in names]
                cells.append(_shown(found))
                means[f"{dataset}, {run}, {column}"] = float(np.mean(found))
            rows.append((ROWS[run], *cells))
        means[f"{dataset}, mean frame"] = float(np.mean(floor))
        harness.print_table(
            ("top-1 %, mean (deviation)", *COLUMNS), rows,
            f"{dataset}: splits {', '.join(map(str, splits))}, seeds {', '.join(map(str, seeds))}",
        )  # fmt: skip
    return {name: value for name, value in means.items() if np.isfinite(value)}


def _shown(values) -> str:
    if not np.isfinite(values).all():
        return ""
    return f"{np.mean(values):.1f}" + (
        f" ({np.std(values, ddof=1):.1f})" if len(values) > 1 else ""
    )


def main() -> None:
    """Runs the comparison."""
    parser = harness.parser(__doc__)
    for name, default, text in (
        ("data", "", "folder of the videos and their lists"),
        ("work", "runs/real_video", "folder for shards, runs and scores; keep it to go on later"),
        ("recipes", "released,paper,small", "of " + ", ".join(RECIPES)),
        ("splits", "1,2,3", "official splits"),
        ("seeds", "0", "seeds of training"),
        ("steps", 450, "pre-training steps of each recipe"),
        ("epochs", 36, "epochs that the schedules of pre-training are laid over"),
        ("batch_size", 32, "global batch size"),
        ("num_negatives", 256, "negatives of released and paper"),
        ("image_size", 64, "side of the images"),
        ("short_side", 80, "short side of the stored frames"),
        ("finetune_epochs", 20, "epochs of fine-tuning"),
        ("finetune_rate", 0.01, "learning rate of fine-tuning"),
    ):
        parser.add_argument(f"--{name}", default=default, type=type(default), help=text)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_real_video-") as temporary:
        work = Work(arguments, os.path.abspath(arguments.work if arguments.data else temporary))
        data, folder = arguments.data, os.path.join(arguments.data, "splits", "combined9")
        if not data:
            data = work.path("clips")
            work.run("make_synthetic", f"--output={data}", "--num_videos=48", "--num_frames=12")
            folder = os.path.join(data, "splits")
            arguments.splits, arguments.steps, arguments.finetune_epochs = "1", 4, 2
            arguments.image_size, arguments.short_side, arguments.batch_size = 32, 40, 8
            arguments.num_negatives = 16
        splits, seeds = ([int(n) for n in given.split(",")] for given in
                         (arguments.splits, arguments.seeds))  # fmt: skip
        figures = compare(
            work, arguments, os.path.abspath(data), os.path.abspath(folder), splits, seeds
        )
    part = "ucf101" if any(name.startswith("ucf101,") for name in figures) else "all"
    recipe = arguments.recipes.split(",")[-1]
    goals = {
        f"{part}, {recipe}, {column}": max(
            figures.get(f"{part}, {other}, {column}", 0.0)
            for other in ("random", "random-crop", "scratch")
        )
        for column in ("kNN", "linear", "fine-tuned")
    }
    goals[f"{part}, {recipe}, kNN"] = max(
        goals[f"{part}, {recipe}, kNN"], figures[f"{part}, mean frame"]
    )
    harness.finish(figures, goals, packages=("scikit-learn",), settings=vars(arguments))


if __name__ == "__main__":
    main()
