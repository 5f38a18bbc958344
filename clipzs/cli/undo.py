"""`clipzs undo`: what `clipzs sort` has done, taken back."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipzs.cli import options as o
from clipzs.cli.groups import TalkGroup, grouped
from clipzs.cli.narration import say, set_up
from clipzs.cli.running import put_off
from clipzs.cli.show import print_rows
from clipzs.errors import SIGNALLED, SOME_IMAGES_FAILED

if TYPE_CHECKING:
    from clipzs.interrupts import Interrupts
    from clipzs.sorting import TakenBack, Undo


@grouped
def undo(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that was after --to.")],
    *,
    everything: Annotated[bool, o.option("--all", help="All that was ever sorted there, the latest first.")] = False,
    dry_run: Annotated[bool, o.option("--dry-run", "-n", help="Only say what would be done.")] = False,
    talk: TalkGroup,
) -> None:
    """Take back what the last `clipzs sort` into a folder did: remove its copies and links, move pictures back.

    What was changed since stays, and so does a copy whose original is gone. Nothing is overwritten.

    Exit codes: 0 all taken back, 1 failed or nothing was sorted there, 2 wrong usage, 3 some pictures stay (they are
    named), 130 stopped with Ctrl-C (the same command goes on).
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    from clipzs.interrupts import Interrupts
    from clipzs.sorting import Undo

    told = _Told()
    with Interrupts(put_off) as interrupts:
        undoing = Undo(folder, everything=everything, dry_run=dry_run)
        stopped = _taken_back(undoing, interrupts, told)
    told.conclude(dry_run=dry_run, quiet=talk.quiet)
    if stopped is not None:
        say("stopped: the same command goes on from there")
        raise typer.Exit(SIGNALLED + stopped)
    raise typer.Exit(SOME_IMAGES_FAILED if told.stay else 0)


def _taken_back(undoing: "Undo", interrupts: "Interrupts", told: "Callable[[Sequence[TakenBack]], None]") -> int | None:
    """Take it back; the signal that ended it early, if one did."""
    try:
        for batch in undoing.batches(interrupts.begin):
            told(batch)
            interrupts.end()
    except KeyboardInterrupt:
        return interrupts.signal
    finally:
        undoing.close()
    return None


class _Told:
    """Says what was done: to a pipe, path and source of each picture; what stays, on standard error."""

    def __init__(self) -> None:
        self.stay = 0
        self._counts: Counter[str] = Counter()
        self._listening = sys.stdout is not None and not sys.stdout.isatty()

    def __call__(self, batch: "Sequence[TakenBack]") -> None:
        from clipzs.writers import tsv_field

        rows = []
        for one in batch:
            if one.stays is not None:
                self.stay += 1
                say(f"{one.path}: stays: {one.stays}", kind="error")
            else:
                self._counts["moved back" if one.moved else "removed"] += 1
                rows.append((tsv_field(one.path), tsv_field(one.source) if one.moved else ""))
        if self._listening:
            try:
                print_rows((), rows)
                sys.stdout.flush()
            except BrokenPipeError:
                self._listening = False  # the work goes on

    def conclude(self, *, dry_run: bool, quiet: bool) -> None:
        """How many, in a line."""
        counts = [f"{count:,} {'would be ' if dry_run else ''}{what}" for what, count in self._counts.items()]
        counts += [f"{self.stay:,} {'would stay' if dry_run else 'stay'}"] if self.stay else []
        if not quiet:
            say(f"{'nothing was touched: ' if dry_run else ''}{', '.join(counts) or 'nothing to take back'}")
