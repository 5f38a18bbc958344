"""`clipzs report`: a page to look through earlier results, and what makes that page for other commands."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.groups import TalkGroup, grouped
from clipzs.cli.narration import Progress, set_up
from clipzs.cli.running import abandoned_on_failure, replayed
from clipzs.errors import SIGNALLED, ClipzsError, UsageProblem, listed

if TYPE_CHECKING:
    from clipzs.report import Report
    from clipzs.results import Result

log = logging.getLogger("clipzs")

SUFFIXES = (".html", ".htm")


@grouped
def report(
    ctx: typer.Context,
    results: Annotated[
        str,
        typer.Argument(
            metavar="RESULTS",
            help="What classify, eval or batch has written (JSON Lines, JSON, CSV, Parquet, or "
            "the folder of a batch); - reads a pipe.",
        ),
    ],
    *,
    output: Annotated[
        Path, o.option("--output", "-o", metavar="FILE.html", help="Write the page there.", panel=o.OUTPUT)
    ],
    root: o.Root = None,
    unknown_label: o.UnknownLabel = defaults.UNKNOWN_LABEL,
    max_megapixels: o.MaxMegapixels = defaults.MAX_MEGAPIXELS,
    image_timeout: o.ImageTimeout = defaults.IMAGE_TIMEOUT_S,
    talk: TalkGroup,
) -> None:
    """Make a page to look through earlier results: filter, sort, correct, and take the corrections with you.

    It opens in a browser, from disk and without a network. Of `eval --save`, it has the figures as well.

    Exit codes: 0 made, 1 no results in it, 2 wrong usage, 130 stopped with Ctrl-C (the page has what was read).
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    from clipzs.decoders import DECODERS
    from clipzs.records import STDIN

    DECODERS.start()
    name = "standard input" if results == STDIN else results
    limits = {"max_megapixels": max_megapixels, "timeout": image_timeout}
    title = os.path.basename(name.rstrip(os.sep))
    page = new_page(output, [results], option="-o", title=title, limits=limits, unknown=unknown_label)
    figures = _Figures(page, unknown=unknown_label)
    with abandoned_on_failure(page):
        replay = replayed(results, [figures, page], Progress(enabled=not talk.quiet, until_first=False), root=root)
    if replay.interrupted is not None:
        raise typer.Exit(SIGNALLED + replay.interrupted)
    if not replay.images:
        raise ClipzsError(f"{name}: no results in it")


def new_page(
    target: Path,
    read: Iterable[str | Path],
    *,
    option: str,
    title: str,
    limits: Mapping[str, float],
    labels: Iterable[str] = (),
    unknown: str | None = None,
    decimals: int = defaults.DECIMALS,
) -> "Report":
    """A report that can be written there, and takes the place of nothing that is read.

    Args:
        target: the page.
        read: files that are read besides images, and others that are written.
        option: what names the page.
        title: what it is a report of.
        limits: how images are read, as `Thumbnails` takes them.
        labels: to choose among.
        unknown: the answer where no label is.
        decimals: of scores.

    Raises:
        UsageProblem: it has the name of something else.
        OutputError: it cannot be written.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise UsageProblem(f"{option} {target}: a page ends in .html", hint=f"{option} {target.with_suffix('.html')}")
    from clipzs.output import check_apart
    from clipzs.report import Report
    from clipzs.thumbnails import Thumbnails

    check_apart(target, read, option=option)
    thumbnails = Thumbnails(target, **limits)
    return Report(target, thumbnails, title=title, labels=labels, unknown=unknown, decimals=decimals)


class _Figures:
    """A sink before the page: gives it the figures of records that hold their truth, and sees that images are there."""

    again: str | None = None

    def __init__(self, page: "Report", *, unknown: str) -> None:
        from clipzs.recorded import Recorded

        self._page = page
        self._recorded = Recorded(unknown=unknown)
        self._images = 0
        self._missing: list[str] = []

    def write(self, batch: "Sequence[Result]") -> None:
        """Take the outcomes of a batch, and look for its images."""
        self._recorded.write(batch)
        readable = [result.path for result in batch if result.error is None]
        self._images += len(readable)
        self._missing += [path for path in readable if not os.path.exists(path)]

    def close(self, run: Mapping[str, Any]) -> None:
        """Hand over the figures.

        Raises:
            UsageProblem: none of the images is there.
        """
        if self._missing and len(self._missing) == self._images:
            raise UsageProblem(
                f"none of its {self._images:,} images is there, e.g. {self._missing[0]}",
                hint="relative paths start here; --root DIR says where else",
            )
        if self._missing:
            log.warning("%s of %s images are not there: %s", f"{len(self._missing):,}", f"{self._images:,}",
                        listed(self._missing))  # fmt: skip
        cells = self._recorded.cells()
        if self._recorded.any and not cells:
            log.warning("no figures: the records do not hold the scores of all labels")
        self._page.evaluation = [cell.as_json() for cell in cells] or None

    def abandon(self) -> None:
        """Nothing was written."""
