"""Which settings of pre-training suit a few hundred videos? One changed at a time, on held-out groups.

    python experiments/benchmarks/sweep_small.py --data=DIR --work=DIR

`experiments/pretrain_small.flags` is its base. Test videos are not looked at: of split 1's training list
every fourth group is held out, the rest pre-trains and votes. Each cell is a run of `train` and one of
`evaluate` with its JSON under --work; what is there is not done again, and what was stopped goes on.
`--variants` takes some of the names of the table. Without --data it runs on clips it makes itself,
which shows only that it runs.
"""

import json
import os
import re
import tempfile

import harness  # isort: skip -- makes tce_tf importable
from bench_real_video import Work

# What all runs share: the recipe at which the sweep began, that of the demo.
BASE = {
    "frame_gap": "8:24", "loss": "infonce", "temperature": 0.1, "mining": "false", "optimizer": "adamw",
    "learning_rate": 0.001, "schedule": "cosine", "warmup_epochs": 2, "rotation_weight": 1,
    "resize_mode": "crop", "min_crop": 0.875, "own_crops": "false",
}  # fmt: skip
VARIANTS = {
    "base": {},
    "paper": None,  # pretrain.flags with this K
    "crop from 0.4": {"min_crop": 0.4},
    "own crops": {"own_crops": "true"},
    "crop from 0.4, own": {"min_crop": 0.4, "own_crops": "true"},
    "gap 0": {"frame_gap": 0},
    "gap 1": {"frame_gap": 1},
    "gap 1:60": {"frame_gap": "1:60"},
    "T 0.07": {"temperature": 0.07},
    "T 0.2": {"temperature": 0.2},
    "no rotation": {"rotation_weight": 0},
    "rotation 10": {"rotation_weight": 10},
    "mined": {"mining": "true"},
    "K 64": {"num_negatives": 64},
    "rate 0.0003": {"learning_rate": 0.0003},
    "rate 0.003": {"learning_rate": 0.003},
    "rate 0.003, T 0.05": {"learning_rate": 0.003, "temperature": 0.05},
    "nce, adamw": {"loss": "nce", "temperature": 0.07},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.03},
    "squash": {"resize_mode": "squash"},
    "batch 16": {"batch_size": 16},
    "batch 16, crop from 0.4, own": {"batch_size": 16, "min_crop": 0.4, "own_crops": "true"},
    "batch 8, crop from 0.4, own": {"batch_size": 8, "min_crop": 0.4, "own_crops": "true"},
    "batch 8, crop from 0.4, own, T 0.2": {
        "batch_size": 8,
        "min_crop": 0.4,
        "own_crops": "true",
        "temperature": 0.2,
    },
    "batch 8, no rotation": {"batch_size": 8, "rotation_weight": 0},
    "batch 8, crop from 0.4, own, no rotation": {
        "batch_size": 8,
        "min_crop": 0.4,
        "own_crops": "true",
        "rotation_weight": 0,
    },
}
EVERY = 4  # of so many groups one is held out
FIGURES = ("knn.top1", "linear.top1", "retrieval.r1", "coherence.effective_rank")


def hold_out(split_dir: str, folder: str) -> None:
    """Writes lists in which every fourth group of split 1's training list is the test list."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(split_dir, "trainlist01.txt"), encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    held_out = [int(re.search(r"(?:_g|_seq)(\d+)_", line)[1]) % EVERY == 0 for line in lines]
    for side, held in (("train", False), ("test", True)):
        with open(os.path.join(folder, f"{side}list01.txt"), "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line, out in zip(lines, held_out, strict=True)
                            if out == held)  # fmt: skip
    with open(os.path.join(split_dir, "classInd.txt"), encoding="utf-8") as source:
        classes = source.read()
    with open(os.path.join(folder, "classInd.txt"), "w", encoding="utf-8") as file:
        file.write(classes)


def pretrain(work: Work, arguments, name: str) -> str:
    """Trains a variant; returns its workdir."""
    workdir = work.path("runs", name.replace(" ", "_").replace(",", ""))
    data = [work.path("shards", part) for part in ("train1", "background1")]
    data = [folder for folder in data if os.path.exists(os.path.join(folder, "manifest.json"))]
    changes = VARIANTS[name]
    flags = [f"--flagfile={os.path.join(harness.ROOT, 'experiments', 'pretrain.flags')}"]
    settings = {
        "data": ",".join(data), "workdir": workdir, "steps": arguments.steps,
        "epochs": arguments.epochs, "image_size": arguments.image_size,
        "batch_size": arguments.batch_size, "seed": arguments.seed,
        "num_negatives": arguments.num_negatives,
    }  # fmt: skip
    if changes is not None:
        settings |= BASE | changes
        if not arguments.data:  # a handful of clips
            settings["num_negatives"] = arguments.num_negatives
        # The same number of samples, and of updates the more.
        settings["steps"] = arguments.steps * arguments.batch_size // settings["batch_size"]
    flags += [f"--{flag}={value}" for flag, value in settings.items()]
    work.claim(f"train-{name}", *flags)
    work.run("train", *flags)
    return workdir


def main() -> None:
    """Runs the cells and prints the table."""
    parser = harness.parser(__doc__)
    for name, default, text in (
        ("data", "", "folder of the videos and their lists"),
        ("work", "", "folder for shards, runs and scores; a temporary one by default"),
        ("variants", ";".join(VARIANTS), "names of the table, parted by ;"),
        ("steps", 520, "steps of each run at the common batch size"),
        ("epochs", 50, "epochs that the schedules are laid over"),
        ("batch_size", 32, "global batch size"),
        ("num_negatives", 256, "negatives where a variant does not say"),
        ("image_size", 112, "side of the images"),
        ("short_side", 128, "short side of the stored frames"),
        ("seed", 0, "seed of training"),
    ):
        parser.add_argument(f"--{name}", default=default, type=type(default), help=text)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep_small-") as temporary:
        work = Work(arguments, os.path.abspath(arguments.work or temporary))
        data, lists = arguments.data, os.path.join(arguments.data, "splits", "combined9")
        if not data:
            data = work.path("clips")
            work.run("make_synthetic", f"--output={data}", "--num_videos=48", "--num_frames=12")
            lists = os.path.join(data, "splits")
            arguments.steps = arguments.epochs = 4
            arguments.image_size, arguments.short_side, arguments.batch_size = 32, 40, 8
            arguments.num_negatives = 16
        hold_out(os.path.abspath(lists), work.path("lists"))
        test_list = os.path.join(os.path.abspath(lists), "testlist01.txt")
        work.make_shards(os.path.abspath(data), work.path("lists"), 1, (test_list,))
        # All variants but the paper's and `squash` see the central square of a frame.
        work.evaluate("random", "none", 1, resize_mode="crop")
        work.evaluate("random_squash", "none", 1)
        rows, figures = [], {}
        names = [name for name in arguments.variants.split(";") if name]
        for name in ["random", "random squash", *names]:
            if name in VARIANTS:
                work.evaluate(name.replace(" ", "_"), pretrain(work, arguments, name), 1)
            with open(work.path("scores", f"{name.replace(' ', '_')}.json")) as file:
                found = json.load(file)
            parts = {"all": found} | found["per_dataset"]
            figures[name] = {
                f"{part}, {key}": values[key]
                for part, values in parts.items()
                for key in FIGURES
                if key in values
            }
            rows.append((name, *figures[name].values()))
        harness.print_table(("", *figures["random"]), rows)
    harness.finish(
        {f"{name}: {key}": value for name, found in figures.items() for key, value in found.items()},
        {}, packages=("scikit-learn",), settings=vars(arguments),
    )  # fmt: skip


if __name__ == "__main__":
    main()
