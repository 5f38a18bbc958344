"""What commands share that send images through a classifier, or the results of an earlier run, into sinks."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.groups import FilesGroup
from clipzs.cli.narration import Progress, say, say_in_handler
from clipzs.errors import FAILED, SIGNALLED, SOME_IMAGES_FAILED, UsageProblem

_WITH_RESULTS = ("results", "root", "quiet", "verbose")

if TYPE_CHECKING:
    from clipzs.classifier import Classifier
    from clipzs.labels import Label
    from clipzs.options import Options
    from clipzs.paths import Selection
    from clipzs.resume import Earlier
    from clipzs.run import Passage, Replay, Run, Sink


def selected(paths: list[str], files: FilesGroup) -> "Selection":
    """The images that are named; a list from a pipe where none are and -0 says that there is one.

    Raises:
        UsageProblem: none are named.
    """
    from clipzs.paths import STDIN, Selection

    if not paths and not files.files_from:
        if not files.null:
            raise UsageProblem(
                "no images named", hint="name files or folders, or - to read a list of paths from a pipe"
            )
        paths = [STDIN]
    if STDIN in (*paths, *files.files_from) and sys.stdin is not None and sys.stdin.isatty():
        say("reading paths from the keyboard, one a line; Ctrl-D ends the list")
    return Selection(paths, files.files_from, null=files.null, recursive=files.recursive, exclude=files.exclude)


def classifier_of(labels: "Iterable[Label]", options: "Options", progress: Progress) -> "Classifier":
    """What answers, with its progress shown; errors as of `Classifier`."""
    from clipzs.classifier import Classifier

    return Classifier(labels, options=options, progress=progress.prompts, compiling=progress.compiling)


@contextmanager
def abandoned_on_failure(*sinks: "Sink") -> Iterator[None]:
    """Whatever ends the block early, the sinks leave no half of anything."""
    try:
        yield
    except BaseException:
        for sink in sinks:
            sink.abandon()
        raise


def classified(
    classifier: "Classifier",
    selection: "Selection",
    sinks: "Sequence[Sink]",
    progress: Progress,
    *,
    earlier: "Earlier | None" = None,
    log: Path | None = None,
) -> "Run":
    """Classify a selection; then compile the model, if that is still to be done."""
    from clipzs.run import Run

    run = Run(classifier, selection, sinks, earlier=earlier, log=log)
    count = None if selection.live else lambda: sum(1 for _ in selection.find(ordered=False))
    with progress.shown(count, done=earlier.records if earlier else 0):
        run(progress.advance, put_off)
    if run.interrupted is None:
        with progress.after():
            classifier.compile()
    return run


def replayed(
    file: str | Path,
    sinks: "Sequence[Sink]",
    progress: Progress,
    *,
    root: Path | None = None,
    at_once: int | None = None,
) -> "Replay":
    """Send the results of an earlier run into sinks.

    Args:
        file: as of `records.read`.
        sinks: each is given all of them.
        progress: where they are counted.
        root: as of `records.read`.
        at_once: how many are in a batch, where sinks take long for one: Ctrl-C waits for its end.
    """
    from clipzs import records
    from clipzs.run import REPLAYED_AT_ONCE, Replay

    replay = Replay(records.read(file, root=root), sinks, at_once=at_once or REPLAYED_AT_ONCE)
    with progress.shown(None, first="reading results"):
        replay(progress.advance, put_off)
    return replay


def check_asks_no_model(context: typer.Context, *others: str) -> None:
    """See that --results comes without options that would change nothing.

    Args:
        context: of the command.
        others: names of parameters that go with it, besides those that always do.

    Raises:
        UsageProblem: another one is on the command line.
    """
    for parameter in context.command.params:
        if o.is_typed(context, parameter.name or "") and parameter.name not in (*others, *_WITH_RESULTS):
            name = parameter.opts[0] if parameter.param_type_name == "option" else getattr(parameter, "metavar", "")
            raise UsageProblem(
                f"--results has images with their answers: {name} would change nothing", hint="leave one of them out"
            )


def format_of(format_: str, json: bool, target: Path | None) -> str:
    """The format that is meant: as named, else as the file's suffix says, else what suits standard output.

    Raises:
        UsageProblem: two are named.
    """
    from clipzs.output import default_format

    if json and format_ not in ("", "jsonl"):
        raise UsageProblem(f"--json is --format jsonl, and --format {format_} is named too", hint="name one")
    return "jsonl" if json else format_ or default_format(target)


def usual_top_k(format_: str, *, several: bool = False, table: int = defaults.TABLE_TOP_K) -> int | None:
    """How many labels an image has in a format where nothing is said; `several`: there may be several answers."""
    return {"table": table, "json": None, "jsonl": None}.get(format_, None if several else 1)


def check_resumable(format_: str, target: Path | None, selection: "Selection", *, retry_errors: bool) -> None:
    """See that there is, or will be, a file that a run can go on with.

    Raises:
        UsageProblem: there is not.
    """
    if target is None or (target.exists() and not target.is_file()):
        raise UsageProblem("--resume needs the file of the earlier run", hint="name it: -o FILE.jsonl")
    if format_ != "jsonl":
        raise UsageProblem(
            f"--resume goes on with JSON Lines only: {format_} does not say what made its scores",
            hint="write JSON Lines: -o FILE.jsonl, or --json",
        )
    if retry_errors and selection.live:
        raise UsageProblem(
            "--retry-errors reads the list of paths twice, which a pipe cannot",
            hint="write the list to a file and name it with --files-from",
        )


def earlier_in(path: Path, classifier: "Classifier", selection: "Selection", *, retry_errors: bool) -> "Earlier":
    """What a file has of an earlier run.

    Raises:
        ClipzsError: it was another, or cannot be read.
    """
    from clipzs.resume import Earlier

    again = selection.find(ordered=False) if retry_errors else None
    return Earlier(path, classifier.configuration, scores=classifier.scores_kept, retry=again)


def put_off() -> None:
    """What is said when Ctrl-C has to wait."""
    say_in_handler("stopping after the batch under way; once more stops at once")


def concluded(
    run: "Passage", *, reasons_shown: bool, quiet: bool, nothing: str = "nothing to classify: no images found"
) -> int:
    """The exit code, with the closing words that go with it.

    Args:
        run: that has ended.
        reasons_shown: whether the results say why an image could not be read.
        quiet: leave out what is no failure.
        nothing: what to say where there was no image.
    """
    earlier: Earlier | None = getattr(run, "earlier", None)
    before = earlier.records if earlier else 0
    images, errors = run.images + before, run.errors + (earlier.errors if earlier else 0)
    if run.interrupted is not None:
        say(f"stopped after {run.images} images; what was written is complete")
        if run.again:
            say(run.again, kind="hint")
        return SIGNALLED + run.interrupted
    if run.images == 0 and not (earlier and earlier.skipped):
        say(nothing, kind="error")
        say("folders are searched for the usual image suffixes; a file named directly is always tried", kind="hint")
        return FAILED
    if run.images == 0 and earlier and not quiet:
        say(f"nothing left to do: {earlier.path} has a record of every image")
    if errors:
        if not quiet:
            for path, reason in run.reasons if not reasons_shown else ():
                say(f"{path}: {reason}", kind="error")
            say(f"{errors} of {images} images could not be read", kind="error")
            if earlier:
                say("--retry-errors tries them again", kind="hint")
        return SOME_IMAGES_FAILED
    return 0
