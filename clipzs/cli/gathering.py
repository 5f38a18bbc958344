"""What commands share that are about embeddings: images and texts through a model, and what is said of it."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipzs.cli import options as o
from clipzs.cli.groups import FilesGroup, PromptGroup
from clipzs.cli.narration import Progress, say
from clipzs.cli.running import concluded, put_off
from clipzs.errors import SIGNALLED, ClipzsError, UsageProblem

if TYPE_CHECKING:
    from clipzs.embedder import Embedder
    from clipzs.embeddings import Embeddings, Put
    from clipzs.gathering import Gathering
    from clipzs.paths import Selection

EmbeddingsFile = Annotated[
    Path | None,
    o.option("--embeddings", metavar="FILE", help="In place of PATHS: a file that `clipzs embed` wrote, or the folder "
             "of `clipzs batch --embeddings`.", panel=o.IMAGES),
]  # fmt: skip


def templates_of(prompts: PromptGroup) -> tuple[str, ...]:
    """Those that are asked for; a text as it is where none are."""
    from clipzs import defaults, templates

    alone = prompts.template or ([] if prompts.templates else [defaults.PLACEHOLDERS[0]])
    return templates.chosen(prompts.templates, alone, prompts.context, prompts.prompts_dir)


def stored(file: Path, paths: list[str], files: FilesGroup, root: Path | None) -> "Embeddings":
    """A file in place of images.

    Raises:
        UsageProblem: images are named too.
        EmbeddingsError: as `embeddings.read` says.
    """
    from clipzs import embeddings

    if paths or files.files_from:
        raise UsageProblem("--embeddings is in place of images, and images are named too", hint="name one or the other")
    found = embeddings.read(file)
    return found if root is None else replace(found, ids=[os.path.join(root, one) for one in found.ids])


def gathered(embedder: "Embedder", selection: "Selection", put: "Put", progress: Progress) -> "Gathering":
    """Send images through a model; ends the command where there is nothing to go on with.

    Raises:
        ClipzsError: no image could be read.
        typer.Exit: it was stopped, or there was no image.
    """
    from clipzs.gathering import Gathering

    run = Gathering(embedder, selection, put)
    with progress.shown(None if selection.live else lambda: sum(1 for _ in selection.find(ordered=False))):
        run(progress.advance, put_off)
    if run.interrupted is not None:
        kept = embedder.options.cache and embedder.options.image_cache
        say(f"stopped after {run.images:,} images{'; their embeddings are in the cache' * kept}")
        raise typer.Exit(SIGNALLED + run.interrupted)
    if not run.images:
        raise typer.Exit(concluded(run, reasons_shown=False, quiet=False, nothing="no images found"))
    if run.errors == run.images:
        path, reason = run.reasons[0]
        raise ClipzsError(f"none of the {run.images:,} images could be read, e.g. {path}: {reason}")
    return run


def lines(rows: list[str], *, null: bool = False) -> str:
    """Rows with their ends; on a terminal without anything that it would obey."""
    from clipzs.paths import printable

    if null:
        return "".join(f"{row}\0" for row in rows)
    if sys.stdout.isatty():
        rows = ["\t".join(map(printable, row.split("\t"))) for row in rows]
    return "".join(f"{row}\n" for row in rows)
