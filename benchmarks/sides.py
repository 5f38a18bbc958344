"""Several ways to the same answers, timed in turn: a busy moment of the machine meets all of them alike."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import processes
from benchmarks.workbench import LABELS, new_labels

EXACT = 0.998  # of the answers of exact sides: by rounding, a photo between two labels may fall to either
Command = Callable[[Sequence[str], str], list[str]]


@dataclass(frozen=True)
class Side:
    """One way to do a job.

    Attributes:
        name: for people.
        command: files and labels → the program and its arguments; prints the best label of each file.
        runs: how often it is measured.
        ours: whether it is clipzs.
        new_labels: whether each run gets labels that were not seen before.
        before: brings caches into the state that this side is about; not timed.
        agree: least share of its answers that must be those of the first side with the same labels and prompts; None
            only prints it.
        prompts: which prompts it uses; answers of different ones are not compared.
        workers: whether it starts processes whose memory counts.
        warm_up: what to run once before all measurements, if not its own command with a few files.
    """

    name: str
    command: Command
    runs: int
    ours: bool = False
    new_labels: bool = False
    before: Callable[[], object] | None = None
    agree: float | None = EXACT
    prompts: str = "one"
    workers: bool = False
    warm_up: list[str] | None = None


def compare(title: str, files: Sequence[str], sides: Sequence[Side]) -> dict[str, Any]:
    """Run all sides in turn; the first of them sets the answers.

    Returns:
        What report.py renders: the title, the number of files, and the raw numbers of each side.
    """
    references: dict[tuple[str, str, int], list[str]] = {}
    rows: dict[str, dict[str, Any]] = {side.name: _row(side) for side in sides}
    for side in sides:
        _say(title, side, "warming up")
        if side.warm_up:
            processes.run(side.warm_up)
        else:
            _once(side, files[:3], LABELS, references)
    for number in range(max(side.runs for side in sides)):
        for side in sides:
            if number >= side.runs:
                continue
            labels = new_labels(number) if side.new_labels else LABELS
            measured, agreement = _once(side, files, labels, references)
            _say(title, side, f"{measured.seconds:.2f} s, {measured.megabytes:.0f} MB, agreement {agreement:.4f}")
            rows[side.name]["seconds"].append(round(measured.seconds, 4))
            rows[side.name]["megabytes"].append(round(measured.megabytes, 1))
            rows[side.name]["agreement"].append(round(agreement, 5))
            rows[side.name]["after_seconds"].append(round(measured.after_seconds, 2))
    return {"title": title, "images": len(files), "rows": list(rows.values())}


def _row(side: Side) -> dict[str, Any]:
    return {
        "side": side.name,
        "ours": side.ours,
        "seconds": [],
        "megabytes": [],
        "agreement": [],
        "after_seconds": [],
    }


def _once(
    side: Side, files: Sequence[str], labels: str, references: dict[tuple[str, str, int], list[str]]
) -> tuple[processes.Measured, float]:
    if side.before:
        side.before()
    measured = processes.run(side.command(files, labels), watch_workers=side.workers)
    answers = read_answers(measured.output)
    if len(answers) != len(files) or not set(answers) <= set(labels.split(",")):
        raise SystemExit(f"{side.name}: {len(answers)} answers for {len(files)} files, among them {answers[:3]}")
    reference = references.setdefault((labels, side.prompts, len(files)), answers)
    agreement = sum(a == b for a, b in zip(answers, reference, strict=True)) / len(files)
    if side.agree is not None and agreement < side.agree:
        raise SystemExit(f"{side.name}: only {agreement:.2%} of its answers are those of the first side")
    return measured, agreement


def read_answers(output: str) -> list[str]:
    """A label a line, or pybioclip's CSV."""
    lines = output.splitlines()
    if lines and lines[0] == "file_name,classification,score":
        return [row["classification"] for row in csv.DictReader(lines)]
    return lines


def _say(title: str, side: Side, what: str) -> None:
    print(f"  {title}: {side.name}: {what}", flush=True)
