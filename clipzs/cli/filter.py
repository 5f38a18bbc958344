"""`clipzs filter`: grep for pictures."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

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
from clipzs.errors import FAILED, OutputError, UsageProblem
from clipzs.labels import from_names

if TYPE_CHECKING:
    from clipzs.run import Passage

FILTER = "Filter"


@dataclass(kw_only=True)
class _Files(FilesGroup):
    """Which images. -0 is about what is printed, as it is for grep, fd and rg."""

    null: Annotated[
        bool, o.option("--null", help="Lists that are read are separated by NUL bytes (find -print0).", panel=o.IMAGES)
    ] = False


@dataclass(kw_only=True)
class _Answers(AnswerGroup):
    """Which scores make an answer, and which a match."""

    min_score: Annotated[
        float | None,
        o.option("--min-score", metavar="SCORE", help="Match where what is looked for has so much, whatever the "
                 "answer is. Unless given, it must be the answer.", panel=FILTER),
    ] = None  # fmt: skip


@grouped
def filter_(
    ctx: typer.Context,
    paths: o.Paths = None,
    *,
    is_: Annotated[
        list[str],
        o.repeated("--is", metavar="LABEL", help="What to look for; of several, one is enough.", panel=FILTER),
    ],
    invert: Annotated[bool, o.option("--invert", help="Print what does not match.", panel=FILTER)] = False,
    print0: Annotated[
        bool, o.option("--print0", "-0", help="A NUL byte after each path, for xargs -0.", panel=FILTER)
    ] = False,
    results: o.Results = None,
    root: o.Root = None,
    labels: LabelGroup,
    head: o.Head = None,
    prompts: PromptGroup,
    model: ModelGroup,
    answers: _Answers,
    files: _Files,
    reading: ReadingGroup,
    talk: TalkGroup,
) -> None:
    """Print the paths of images that show what you look for, as they are found: grep for pictures.

    --is names labels or groups of --labels. Without labels, images are compared with everyday words (--unknown).

    Exit codes: 0 something matches, 1 nothing does (or failed), 2 wrong usage, 3 some images could not be read,
    130 stopped with Ctrl-C (143 by SIGTERM, 129 by SIGHUP).
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    names = [*dict.fromkeys(name.strip() for name in is_)]
    if not all(names) or not names:
        raise UsageProblem("nothing says what to look for", hint="name it: --is cat")
    if answers.min_score is not None and not 0 <= answers.min_score <= 1:
        raise UsageProblem("--min-score must be from 0 to 1")
    from clipzs.filtering import Filter

    sought = Filter(names, _printer(b"\0" if print0 else b"\n"), min_score=answers.min_score, invert=invert)
    progress = Progress(enabled=not talk.quiet, until_first=sys.stdout is not None and sys.stdout.isatty())
    run: Passage
    if results is not None:
        check_asks_no_model(ctx, "is_", "min_score", "invert", "print0")
        run = replayed(results, [sought], progress, root=root)
        for name in sought.missing if not sought.matches else ():
            say(f"no result has the label {name!r}", kind="warning")
    else:
        from clipzs.decoders import DECODERS

        DECODERS.start()
        fitted = settled_head(ctx, head, labels, prompts)
        selection = selected(paths or [], files)
        given = labels.given()
        how = {**vars(answers), "min_score": None, "head": fitted}
        if not given and fitted is None:
            given = from_names(names)
            how["unknown"] = not answers.multi
        with abandoned_on_failure(sought):
            classifier = classifier_of(given, options(model, reading, prompts, **how), progress)
            unknown = answers.unknown_label if classifier.abstains else None
            sought.expect(classifier.labels, unknown=unknown, shared=not answers.multi)
            run = classified(classifier, selection, [sought], progress)
    code = concluded(run, reasons_shown=False, quiet=talk.quiet, nothing="nothing to look through: no images found")
    raise typer.Exit(code or (0 if sought.matches else FAILED))


def _printer(end: bytes) -> Callable[[Sequence[str]], None]:
    """Prints paths, each with that behind it: byte for byte, but on a terminal with nothing that it would obey.

    Raises:
        OutputError: there is no standard output.
    """
    from clipzs.output import problem
    from clipzs.paths import printable

    if sys.stdout is None:
        raise OutputError("standard output is closed")
    stream, terminal = sys.stdout.buffer, sys.stdout.isatty()

    def show(paths: Sequence[str]) -> None:
        texts = map(printable, paths) if terminal else paths
        try:
            stream.write(b"".join(text.encode("utf-8", "surrogateescape") + end for text in texts))
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise problem(None, error) from error

    return show
