"""How does a run look at a glance? One HTML page with tables, curves and confusion matrices.

The page is one file without links to others: it can be mailed. Every name that came from outside (a
class, a path, a flag) is escaped.
"""

import base64
import html
import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tce_tf.data import storage
from tce_tf.evaluation import confusion

# Top-1 in percent after fine-tuning, split 1 (Knights et al., ICPR 2020; 67.01 is of arXiv v1).
PUBLISHED = (
    ("ResNet-18, pre-trained on UCF101", 68.2, 31.7),
    ("ResNet-18, pre-trained on Kinetics400", 68.8, 34.2),
    ("ResNet-50, pre-trained on Kinetics400", 71.2, 36.6),
    ("ResNet-50, pre-trained on UCF101, stacks of differences", 67.01, None),
)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7fb5; --note: #777; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.published td { color: var(--note); font-style: italic; }
.bar { display: inline-block; height: .7em; background: var(--bar); }
img { max-width: 100%; background: white; }
details { margin: .8rem 0; }
"""


def finetuning_page(results: Mapping, metrics: Sequence[Mapping]) -> str:
    """The page of a fine-tuning run.

    Args:
      results: the content of its `results.json`.
      metrics: the lines of its `metrics.jsonl`.
    """
    names = results["classifier"]["class_names"]
    rows = [("this run, last step", results["top1"], results["top5"])]
    if results["best"]:
        best = results["best"]
        label = f"this run, step {best['step']}, the best on these videos"
        rows.append((label, best["top1"], best["top5"]))
    parts = [
        "<h2>Scores</h2>",
        _table(
            ("", "top-1 %", "top-5 %"),
            [(name, _percent(top1), _percent(top5)) for name, top1, top5 in rows],
        ),
        f"<p>{results['videos']} test videos of {len(names)} classes.</p>",
        _published(),
        _curves(metrics),
        _parts_tables(results),
        "<h2>Which class is taken for which</h2>",
        _confusion(np.array(results["confusion"]), names, "rows: the true class"),
        _settings(results),
    ]
    return _page(f"Fine-tuning from {results['settings']['encoder']}", parts)


def evaluation_page(
    scores: Mapping, matrices: Mapping[str, np.ndarray], names: Sequence[str]
) -> str:
    """The page of an evaluation of frozen features.

    Args:
      scores: as `evaluate` writes them to its JSON, for one split or for several.
      matrices: protocol -> counts int [C, C], row = true class.
      names: the classes.
    """
    splits = scores.get("splits", {})
    head = ["figure", "value"]
    if splits:
        head = ["figure", "mean", "deviation", *(f"split {name}" for name in splits)]
    figures = [
        [name, f"{value:.4f}"]
        + ([f"{scores['std'][name]:.4f}"] if splits else [])
        + [f"{split[name]:.4f}" for split in splits.values()]
        for name, value in scores.items()
        if isinstance(value, int | float)
    ]
    parts = ["<h2>Scores</h2>", _table(head, figures)]
    for name, found in (splits or {"": scores}).items():
        parts.append(_came_about(f"split {name}: " if name else "", found))
    parts.append(_parts_tables(scores))
    parts.append(_coherence_table(scores))
    for protocol, counts in matrices.items():
        parts += [
            f"<h2>Which class is taken for which: {html.escape(protocol)}</h2>",
            _confusion(counts, names, "rows: the true class"),
        ]
    parts.append(_settings(scores))
    return _page(f"Evaluation of {scores['settings']['encoder']}", parts)


def write(path: str, page: str) -> None:
    """Writes a page aside and renames it."""
    storage.write_atomic(path, page.encode())


def _page(title: str, parts: Iterable[str]) -> str:
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], row_kind: str = "") -> str:
    """A table of text; what looks like a number stands on the right."""

    def cell(value):
        text = "" if value is None else str(value)
        is_number = text.replace(".", "", 1).replace("-", "", 1).isdigit()
        kind = ' class="number"' if is_number else ""
        return f"<td{kind}>{html.escape(text)}</td>"

    body = "\n".join(f"<tr{row_kind}>{''.join(map(cell, row))}</tr>" for row in rows)
    header = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table>\n<tr>{header}</tr>\n{body}\n</table>"


def _published() -> str:
    table = _table(
        ("published", "UCF101 top-1 %", "HMDB51 top-1 %"), PUBLISHED, ' class="published"'
    )
    return (
        "<h2>Beside the published rows</h2>\n<p>Numbers of the paper, not measured here: split 1, "
        f"fine-tuned on 224 px. Compare only runs on the same data.</p>\n{table}"
    )


def _came_about(prefix: str, scores: Mapping) -> str:
    """How the linear probe was chosen, and which numbers of shots were left out."""
    lines = []
    if "linear" in scores:
        probe = scores["linear"]
        lines.append(
            f"linear probe by {probe['solver']}, decay {probe['decay']:g}: "
            f"{_percent(probe['held_out_top1'])} % of {probe['num_held_out']} held-out videos"
        )
    for shots, reason in scores.get("few_shot.skipped", {}).items():
        lines.append(f"few-shot with {shots} a class left out: {reason}")
    return "\n".join(f"<p>{html.escape(prefix + line)}</p>" for line in lines)


def _parts_tables(scores: Mapping) -> str:
    text = ""
    for part, title in (("per_dataset", "By data set"), ("per_class", "By class")):
        if not scores.get(part):
            continue
        figures = [name for name in next(iter(scores[part].values())) if name != "videos"]
        rows = []
        for name, table in scores[part].items():
            cells = "".join(
                f'<td class="number">{_percent(table[f])}</td>'
                f'<td><span class="bar" style="width:{6 * table[f]:.2f}rem"></span></td>'
                for f in figures
            )
            videos = f'<td class="number">{table["videos"]:g}</td>'
            rows.append(f"<tr><td>{html.escape(name)}</td>{videos}{cells}</tr>")
        head = "".join(f"<th colspan=2>{html.escape(f)} %</th>" for f in figures)
        text += (
            f"<h2>{title}</h2>\n<table>\n<tr><th></th><th>videos</th>{head}</tr>\n"
            + "\n".join(rows)
            + "\n</table>\n"
        )
    return text


def _coherence_table(scores: Mapping) -> str:
    table = scores.get("coherence_per_dataset")
    if not table:
        return ""
    figures = list(dict.fromkeys(name for found in table.values() for name in found))
    rows = [
        [name, *(f"{found[figure]:.4g}" if figure in found else "" for figure in figures)]
        for name, found in table.items()
    ]
    return "<h2>Coherence by data set</h2>\n" + _table(["", *figures], rows)


def _curves(metrics: Sequence[Mapping]) -> str:
    """Loss, accuracies and learning rate over the steps, as one picture."""
    if not metrics:
        return ""
    # Imported here: it costs a second, and only pages need it.
    from matplotlib import figure

    drawing = figure.Figure(figsize=(9, 2.8), dpi=110, layout="constrained")
    panels = (("loss",), ("accuracy", "test.top1"), ("learning_rate",))
    for axes, names in zip(drawing.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in metrics if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.replace("_", " "),
                          marker="o" if len(points) == 1 else None)  # fmt: skip
        axes.set_xlabel("step")
        axes.legend(fontsize=8)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    return "<h2>Curves</h2>\n" + _image(buffer.getvalue(), "loss, accuracy and learning rate")


def _confusion(counts: np.ndarray, names: Sequence[str], title: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "confusion.png")
        confusion.write_picture(path, counts, names, title=title)
        with open(path, "rb") as file:
            return _image(file.read(), "confusion matrix")


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{text}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _settings(scores: Mapping) -> str:
    rows = [(name, value) for name, value in scores["settings"].items()]
    rows += [(f"version of {name}", value) for name, value in scores.get("versions", {}).items()]
    for entry in scores.get("data", []):
        rows.append((f"manifest of {entry['folder']}", entry["manifest"]))
    return f"<details><summary>All it depends on</summary>{_table(('setting', 'value'), rows)}</details>"
