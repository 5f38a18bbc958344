"""`clipzs sort`: pictures into a folder for each label."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipzs.cli import options as o
from clipzs.cli.groups import (
    AnswerGroup,
    FilesGroup,
    LabelGroup,
    ModelGroup,
    PromptGroup,
    ReadingGroup,
    TalkGroup,
    grouped,
    options,
    settled_head,
)
from clipzs.cli.narration import Progress, say, set_up
from clipzs.cli.running import (
    abandoned_on_failure,
    check_asks_no_model,
    classified,
    classifier_of,
    concluded,
    replayed,
    selected,
)
from clipzs.cli.show import print_lines, print_rows
from clipzs.errors import SOME_IMAGES_FAILED, UsageProblem

if TYPE_CHECKING:
    from clipzs.labels import Label
    from clipzs.placing import How
    from clipzs.run import Passage
    from clipzs.sorting import Sorting

SORTING = "Sorting"
AT_ONCE = 64  # pictures of earlier results in a batch
_DONE = {"copy": "copied", "move": "moved", "link": "linked", "symlink": "linked"}


@grouped
def sort(
    ctx: typer.Context,
    paths: o.Paths = None,
    *,
    to: Annotated[
        Path | None,
        o.option("--to", metavar="DIR", help="The folder that holds the labels' folders; made if need be.",
                 panel=SORTING),
    ] = None,
    copy: Annotated[bool, o.option("--copy", help="Copy the pictures: so unless one is named.", panel=SORTING)] = False,
    move: Annotated[bool, o.option("--move", help="Move them.", panel=SORTING)] = False,
    link: Annotated[bool, o.option("--link", help="Make hard links, which take no space.", panel=SORTING)] = False,
    symlink: Annotated[bool, o.option("--symlink", help="Make symbolic links.", panel=SORTING)] = False,
    dry_run: Annotated[
        bool, o.option("--dry-run", "-n", help="Only say what would be done.", panel=SORTING)
    ] = False,
    results: o.Results = None,
    root: o.Root = None,
    labels: LabelGroup,
    head: o.Head = None,
    prompts: PromptGroup,
    model: ModelGroup,
    score: o.Score = "softmax",
    by_group: o.ByGroup = False,
    answers: AnswerGroup,
    files: FilesGroup,
    reading: ReadingGroup,
    talk: TalkGroup,
) -> None:  # fmt: skip
    """Sort pictures into a folder for each label. Nothing is ever overwritten; `clipzs undo` takes it back.

    Where no label is right (--min-score, --unknown and so on) the folder is _unlabeled. What was interrupted goes on
    with the same command.

    Exit codes: 0 all sorted, 1 failed or nothing to sort, 2 wrong usage, 3 some images could not be read or sorted
    (they stay where they are, and are named), 130 stopped with Ctrl-C (143 by SIGTERM, 129 by SIGHUP).
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    if to is None:
        raise UsageProblem("nothing says where to sort to", hint="name a folder: --to DIR")
    copy, move, link, symlink = o.as_typed(ctx, copy=copy, move=move, link=link, symlink=symlink)
    how = _how(copy=copy, move=move, link=link, symlink=symlink)
    if how == "move" and answers.multi:
        raise UsageProblem(
            "--move takes a picture to one folder, and with --multi it may have several labels",
            hint="use --copy, --link or --symlink",
        )
    if results is not None:
        check_asks_no_model(ctx, "to", "copy", "move", "link", "symlink", "dry_run", "min_score", "unknown_label")
    from clipzs.sorting import Sorting

    told = _Told(dry_run=dry_run)
    progress = Progress(enabled=not talk.quiet, until_first=dry_run and told.to_terminal)
    run: Passage
    if results is not None:
        sorting = Sorting(to, how, told=told, dry_run=dry_run, min_score=answers.min_score)
        sorting.expect([], unknown=answers.unknown_label)
        with abandoned_on_failure(sorting):
            run = replayed(results, [sorting], progress, root=root, at_once=AT_ONCE)
    else:
        from clipzs.decoders import DECODERS

        DECODERS.start()
        fitted = settled_head(ctx, head, labels, prompts)
        selection = selected(paths or [], files)
        chosen = options(model, reading, prompts, score=score, by_group=by_group, head=fitted, **vars(answers))
        sorting = Sorting(to, how, told=told, dry_run=dry_run)
        with abandoned_on_failure(sorting):
            classifier = classifier_of(labels.given(), chosen, progress)
            sorting.expect(_answers(classifier.labels), unknown=answers.unknown_label if classifier.abstains else None)
            run = classified(classifier, sorting.selection(selection), [sorting], progress)
    raise typer.Exit(_concluded(run, sorting, how, quiet=talk.quiet))


def _how(**asked: bool) -> "How":
    chosen: list[Any] = [how for how, wanted in asked.items() if wanted]
    if len(chosen) > 1:
        raise UsageProblem(" and ".join(f"--{how}" for how in chosen) + " are asked for", hint="choose one")
    how: How = chosen[0] if chosen else "copy"
    return how


def _answers(labels: "Sequence[Label]") -> list[str]:
    """Labels and their groups, which may be answers too."""
    return [*(label.name for label in labels), *(group for label in labels for group in label.groups)]


class _Told:
    """Says what goes where, while somebody listens: a pipe always, a terminal in a dry run only."""

    def __init__(self, *, dry_run: bool) -> None:
        self.to_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._listening = sys.stdout is not None and (dry_run or not self.to_terminal)
        self._dry_run = dry_run

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> None:
        if not self._listening:
            return
        from clipzs.output import problem
        from clipzs.writers import tsv_field

        try:
            if self.to_terminal:
                print_lines(f"{source} → {destination}" for source, destination in pairs)
            else:
                print_rows((), [tuple(map(tsv_field, pair)) for pair in pairs])
            sys.stdout.flush()
        except BrokenPipeError:
            if self._dry_run:
                raise
            self._listening = False  # the work goes on
        except OSError as error:
            raise problem(None, error) from error


def _concluded(run: "Passage", sorting: "Sorting", how: "How", *, quiet: bool) -> int:
    """The exit code, with the closing words that go with it."""
    sorted_ = sum(sorting.counts.values())
    if sorting.counts and sys.stdout is not None and sys.stdout.isatty():
        print_rows(("folder", "images"), [(name, f"{count:,}") for name, count in sorting.counts.most_common()])
    if not quiet:
        if sorting.dry_run:
            say(f"nothing was touched: {sorted_:,} would be {_DONE[how]}")
        if sorting.already:
            say(f"{sorting.already:,} had been sorted already")
        if sorting.passed_over:
            say(f"{sorting.passed_over:,} were put there by an earlier sort: left as they are")
            if not run.images:
                say("to sort those again, name a folder inside that one", kind="hint")
        for path, reason in sorting.problems:
            say(f"{path}: {reason}", kind="error")
    if sorting.failed:
        say(f"{sorting.failed:,} of {run.images:,} images were not sorted", kind="error")
    if not run.images and sorting.passed_over and run.interrupted is None:
        return 0
    code = concluded(run, reasons_shown=False, quiet=quiet, nothing="nothing to sort: no images found")
    return code or (SOME_IMAGES_FAILED if sorting.failed else 0)
