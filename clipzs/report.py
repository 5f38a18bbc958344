"""The report: results in compact columns, written as one page of HTML that a browser opens from disk."""

import hashlib
import html
import math
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from clipzs import __version__, pages
from clipzs.defaults import DECIMALS
from clipzs.output import check_writable, save
from clipzs.results import Result
from clipzs.thumbnails import Thumbnails
from clipzs.writers import json_text

KEPT = 5  # scores of an image, best first
_DIGITS = 7  # of scores in the page, so that they stay in their bin of confidence
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})  # nothing in it ends the script element


@dataclass
class _Answers:
    """What one configuration says of the images, by their row. Labels are places in the report's list of names."""

    model: str
    config: str
    templates: tuple[str, ...]
    label: "array[int]" = field(default_factory=lambda: array("i"))  # [rows], -1: none
    score: "array[float]" = field(default_factory=lambda: array("d"))  # [rows], NaN: none
    scores: list[list[float]] = field(default_factory=list)  # [rows], label, score, label, score, …
    several: dict[int, list[int]] = field(default_factory=dict)
    groups: dict[int, list[float]] = field(default_factory=dict)  # as `scores`, finest first
    error: dict[int, str] = field(default_factory=dict)

    def fill(self, rows: int) -> None:
        """Have so many rows; new ones have no answer."""
        more = rows - len(self.label)
        self.label.extend([-1] * more)
        self.score.extend([math.nan] * more)
        self.scores.extend([] for _ in range(more))

    def as_json(self, rows: int) -> dict[str, Any]:
        self.fill(rows)
        return {
            "model": self.model,
            "config": self.config,
            "templates": self.templates,
            "label": self.label.tolist(),
            "score": [None if math.isnan(score) else round(score, _DIGITS) for score in self.score],
            "scores": self.scores,
            "answers": self.several,
            "groups": self.groups,
            "error": self.error,
        }


class Report:
    """A sink that makes a page of all results, and of what was measured of them.

    An image has one row, whatever number of configurations answered it; the page shows one configuration at a time.

    Args:
        target: the page.
        thumbnails: is told of each row's image, in order.
        title: what it is a report of, in a few words.
        labels: to choose among, if they are known: those that are no answer are offered in it, too.
        unknown: the answer where no label is, if that may be one.
        decimals: of the scores that are shown.

    Attributes:
        evaluation: the cells of `Evaluation.as_json`, if anything was measured; may be set until `close`.

    Raises:
        OutputError: the page cannot be written, at the start or at the end.
    """

    def __init__(
        self,
        target: Path,
        thumbnails: Thumbnails,
        *,
        title: str = "",
        labels: Iterable[str] = (),
        unknown: str | None = None,
        decimals: int = DECIMALS,
    ) -> None:
        check_writable(target)
        self.target = target
        self.evaluation: Sequence[Mapping[str, Any]] | None = None
        self._thumbnails = thumbnails
        self._title = title
        self._unknown = unknown
        self._decimals = decimals
        self._folder = os.getcwd()  # where relative paths start
        self._names = {name: place for place, name in enumerate(dict.fromkeys(labels))}
        self._choices = len(self._names)
        self._rows: dict[str, int] = {}
        self._truth: dict[int, int] = {}
        self._runs: dict[str, _Answers] = {}

    @property
    def again(self) -> str | None:
        """Nothing: a page is made anew."""
        return None

    def write(self, batch: Sequence[Result]) -> None:
        """Keep what the page shows of a batch, and have thumbnails made of images that are new."""
        new = [result for result in batch if result.path not in self._rows]
        for result in batch:
            self._keep(result)
        if new:
            unique = {result.path: None if result.error is not None else result.path for result in new}
            self._thumbnails.add([*unique.values()])

    def close(self, run: Mapping[str, Any]) -> None:
        """Write the page; `run` holds the facts of the run."""
        save(self.target, page(self._data(run)))
        self._thumbnails.keep()

    def abandon(self) -> None:
        """Leave nothing."""
        self._thumbnails.abandon()

    def _keep(self, result: Result) -> None:
        row = self._rows.setdefault(result.path, len(self._rows))
        run = self._runs.setdefault(result.config, _Answers(result.model, result.config, result.templates or ()))
        run.fill(len(self._rows))
        if result.truth is not None:
            self._truth[row] = self._name(result.truth)
        if result.error is not None:
            run.error[row] = result.error
            return
        run.label[row] = -1 if result.label is None else self._name(result.label)
        run.score[row] = math.nan if result.score is None else result.score
        run.scores[row] = self._pairs([(one.label, one.score) for one in result.scores[:KEPT]])
        if result.labels:
            run.several[row] = [self._name(label) for label in result.labels]
        if result.groups:
            run.groups[row] = self._pairs([(one.label, one.score) for one in result.groups])

    def _name(self, label: str) -> int:
        return self._names.setdefault(label, len(self._names))

    def _pairs(self, scores: Iterable[tuple[str, float]]) -> list[float]:
        return [one for label, score in scores for one in (self._name(label), round(score, _DIGITS))]

    def _data(self, run: Mapping[str, Any]) -> dict[str, Any]:
        rows = len(self._rows)
        root, paths = _rooted([_absolute(path, self._folder) for path in self._rows])
        known = hashlib.sha256(json_text([root, paths, [*self._runs]]).encode())
        unknown = None if self._unknown is None else self._names.get(self._unknown)  # None: it is said of no image
        return {
            "version": 1,
            "id": known.hexdigest()[:16],
            "title": self._title,
            "made": datetime.now().astimezone().isoformat(timespec="seconds"),
            "clipzs": __version__,
            "facts": dict(run),
            "decimals": self._decimals,
            "root": root,
            "labels": [*self._names],
            "choices": self._choices,
            "unknown": unknown,
            "images": {
                "path": paths,
                "truth": [self._truth.get(row, -1) for row in range(rows)] if self._truth else None,
            },
            "runs": [answers.as_json(rows) for answers in self._runs.values()],
            "thumbs": self._thumbnails.finish(),
            "evaluation": self.evaluation,
        }


def page(data: Mapping[str, Any]) -> bytes:
    """One HTML file that asks for nothing but the images named in it: style, script and data are inside.

    Args:
        data: of the report, as its script reads it; any text in it is shown as text.
    """
    title = data["title"].encode("utf-8", "replace").decode()
    return pages.filled(
        "report",
        {
            "policy": pages.policy("report", images="data: file: 'self'"),
            "title": html.escape(f"{title} · clipzs report" if title else "clipzs report"),
            "data": json_text(data).translate(_IN_SCRIPT),
        },
    )


def _absolute(path: str, folder: str) -> str:
    whole = os.path.join(folder, path)
    plain = os.pardir not in whole.split(os.sep)  # ".." behind a link is not what the text says
    return os.path.normpath(whole) if plain else whole


def _rooted(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all are in, with its separator at the end, and the paths in it."""
    first, last = min(paths, default=""), max(paths, default="")  # what these two share, all between them do
    alike = next(
        (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first)
    )
    root = first[: first.rfind(os.sep, 0, alike) + 1]
    return root, [path[len(root) :] for path in paths]
