"""What commands share that send images through a classifier, or the results of an earlier run, into sinks."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clipzs.cli.groups import FilesGroup
from clipzs.cli.narration import Progress, say, say_in_handler
from clipzs.errors import FAILED, SIGNALLED, SOME_IMAGES_FAILED, UsageProblem

if TYPE_CHECKING:
    from clipzs.classifier import Classifier
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
        run(progress.advance, _put_off)
    if run.interrupted is None:
        with progress.after():
            classifier.compile()
    return run


def replayed(file: str | Path, sinks: "Sequence[Sink]", progress: Progress, *, root: Path | None = None) -> "Replay":
    """Send the results of an earlier run into sinks; arguments as of `records.read`."""
    from clipzs import records
    from clipzs.run import Replay

    replay = Replay(records.read(file, root=root), sinks)
    with progress.shown(None):
        replay(progress.advance, _put_off)
    return replay


def _put_off() -> None:
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
    if errors:
        if not quiet:
            for path, reason in run.reasons if not reasons_shown else ():
                say(f"{path}: {reason}", kind="error")
            say(f"{errors} of {images} images could not be read", kind="error")
            if earlier:
                say("--retry-errors tries them again", kind="hint")
        return SOME_IMAGES_FAILED
    return 0
