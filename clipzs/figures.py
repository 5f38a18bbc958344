"""The picture of an evaluation: what is taken for what, and how far confidence can be believed. Needs matplotlib."""

import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipzs.errors import UsageProblem
from clipzs.output import check_writable, save
from clipzs.paths import printable

if TYPE_CHECKING:
    from clipzs.evaluation import Cell, Measured
    from clipzs.fewshot import Comparison

SUFFIXES = (".png", ".svg")
_NAMED, _NUMBERED = 60, 20  # classes that still have room for their names, for their numbers
_LETTERS = 32  # of a name
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.parse_math": False,  # a label may hold dollars
    "svg.fonttype": "none",  # letters of all scripts are the viewer's
    "svg.hashsalt": "clipzs",  # the same figures, the same file
}


def check(path: Path) -> None:
    """See that a picture can be drawn there, before the work.

    Raises:
        UsageProblem: another suffix, or no matplotlib.
        OutputError: the file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageProblem(f"--plot {path}: a picture ends in {' or '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise UsageProblem("--plot needs matplotlib, which is not installed", hint="pip install 'clipzs[plots]'")
    check_writable(path)


def draw(cell: "Cell", path: Path) -> None:
    """Confusion matrix and reliability diagram, side by side, into a .png or .svg file.

    Raises:
        OutputError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    count = len(cell.measured.classes)
    side = min(12.0, max(4.2, 1.8 + 0.32 * min(count, _NAMED)))  # inches
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters the font lacks: boxes are drawn for them
        figure = Figure(figsize=(side + 4.6, max(0.9 * side, 4.4)), layout="constrained")
        figure.suptitle(
            printable(f"{cell.model}, templates {', '.join(cell.templates)}: {cell.measured.images} images")
        )
        panels: Any = figure.subfigures(1, 2, width_ratios=(side, 4.6))
        _confusion(panels[0], cell.measured)
        _reliability(panels[1], cell.measured)
        _save(figure, path)


def draw_shots(comparison: "Comparison", path: Path) -> None:
    """Accuracy by the number of examples of each class, a line for each method, into a .png or .svg file.

    Raises:
        OutputError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    plain, *rows = comparison.rows
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        figure.suptitle(printable(f"{comparison.model}: {comparison.images} images tested, {comparison.draws} draws"))
        axes = figure.subplots()
        axes.axhline(plain.top1.mean, color="0.4", linestyle="--", linewidth=1, label=plain.method)
        for method in dict.fromkeys(row.method for row in rows):
            some = [row for row in rows if row.method == method]
            axes.errorbar(
                [row.shots for row in some],
                [row.top1.mean for row in some],
                np.nan_to_num([row.top1.deviation for row in some]),
                fmt="o-", markersize=4, linewidth=1, capsize=2, label=method,
            )  # fmt: skip
        shots = sorted({row.shots for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(shots, [str(count) for count in shots])
        axes.minorticks_off()
        axes.set(xlabel="labelled images of each class", ylabel="top-1 accuracy (mean ± standard deviation)")
        axes.legend(frameon=False)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    kind, buffer = path.suffix.lower()[1:], io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    save(path, buffer.getvalue())


def _confusion(panel: Any, measured: "Measured") -> None:
    """Rows are true classes; a cell's shade is its share of the row."""
    images = measured.confusion
    share = images / np.maximum(images.sum(axis=1, keepdims=True), 1)
    axes = panel.subplots()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    known = "" if len(images) <= _NAMED else ", by its number"
    axes.set(title="what is taken for what", xlabel=f"answer{known}", ylabel=f"true class{known}")
    panel.colorbar(shown, ax=axes, shrink=0.6, label="share of the true class")
    names = [_short(printable(one.label)) for one in measured.classes]
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= _NUMBERED:
        for row, column in zip(*np.nonzero(images), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(images[row, column]), ha="center", va="center", color=colour)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _reliability(panel: Any, measured: "Measured") -> None:
    """Accuracy by confidence with its intervals, above how many images have that confidence."""
    bins = [one for one in measured.bins if one.images]
    above, below = panel.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="as sure as right")
    at, value = [one.confidence for one in bins], [one.accuracy.value for one in bins]
    reach = [
        [one.accuracy.value - one.accuracy.low for one in bins],
        [one.accuracy.high - one.accuracy.value for one in bins],
    ]
    above.errorbar(at, value, np.maximum(reach, 0), fmt="o-", markersize=4, linewidth=1, capsize=2, label="measured")
    ece = measured.overall["ece"]
    above.set(
        title=f"calibration error {ece.value:.1%} ({ece.low:.1%} to {ece.high:.1%}),\n"
        f"{measured.ece_by_chance:.1%} by chance alone",
        ylabel="share of right answers", xlim=(0, 1), ylim=(-0.02, 1.02),
    )  # fmt: skip
    above.legend(loc="best", frameon=False)
    edges = [measured.bins[0].above, *(one.up_to for one in measured.bins)]
    below.stairs([one.images for one in measured.bins], edges, fill=True, color="0.6")
    below.set(xlabel="confidence (probability of the answer)", ylabel="images")
