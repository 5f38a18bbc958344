"""`clipzs dupes`: images that are nearly the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.gathering import EmbeddingsFile, gathered, lines, stored
from clipzs.cli.groups import FilesGroup, ModelGroup, ReadingGroup, TalkGroup, grouped, options
from clipzs.cli.narration import Progress, say, set_up
from clipzs.cli.running import concluded, format_of, selected
from clipzs.errors import FAILED, ClipzsError, UsageProblem

if TYPE_CHECKING:
    from clipzs.duplicates import Files, Image


@grouped
def dupes(
    ctx: typer.Context,
    paths: o.Paths = None,
    *,
    min_similarity: Annotated[
        float,
        o.option("--min-similarity", "-s", metavar="COSINE", min=0.0, max=1.0,
                 help="How similar embeddings of two images must be. It hangs on the model.", panel=o.ANSWERS),
    ] = defaults.SIMILAR,
    decimals: o.Decimals = defaults.DECIMALS,
    model: ModelGroup,
    embeddings: EmbeddingsFile = None,
    root: o.Root = None,
    files: FilesGroup,
    reading: ReadingGroup,
    format_: Annotated[
        Literal["table", "jsonl", "tsv", "paths"] | None,
        o.option("--format", "-f", help="paths: of each group all but the first, which is the largest file. Unless "
                 "given: table on a terminal, tsv in a pipe.", panel=o.OUTPUT),
    ] = None,
    json: Annotated[
        bool, o.option("--json", help="Short for --format jsonl: one JSON object an image.", panel=o.OUTPUT)
    ] = False,
    talk: TalkGroup,
) -> None:  # fmt: skip
    """Find images that are nearly the same: copies, other sizes, other formats, light edits.

    Of each group the largest file comes first, and the others resemble that one. Nothing is deleted: look before you
    do.

    Exit codes: 0 some were found, 1 none were, or it failed, 2 wrong usage, 3 found, but some images could not be read,
    130 stopped with Ctrl-C (143 by SIGTERM); what was embedded is in the cache.
    """  # fmt: skip
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    if embeddings is None:
        from clipzs.decoders import DECODERS

        DECODERS.start()
    from clipzs import duplicates
    from clipzs.embeddings import Collected
    from clipzs.filehashes import FileHashes
    from clipzs.options import checked
    from clipzs.output import put_out
    from clipzs.remote import embedder_for
    from clipzs.sizes import in_words

    format_, json = o.as_typed(ctx, format_=format_ or "", json=json)
    form = format_of(format_, json, None)
    file = stored(embeddings, paths or [], files, root) if embeddings else None
    if file is not None and file.facts.of != "images":
        raise UsageProblem(f"{file.path} holds embeddings of {file.facts.of}", hint="duplicates are found among images")
    selection = None if file else selected(paths or [], files)
    progress = Progress(enabled=not talk.quiet, until_first=False)
    embedder = embedder_for(checked(options(model, reading)), progress=progress.prompts, compiling=progress.compiling)
    name = file.facts.model if file else embedder.model.name
    if file is not None and (model.model is not None or model.model_config is not None):
        file.check_made_with(embedder.model.name, embedder.model.digest)
    code, found = 0, Collected()
    if selection is not None:
        run = gathered(embedder, selection, found.put, progress)
        code = concluded(run, reasons_shown=False, quiet=talk.quiet)
    index = file or found
    here = duplicates.files(index.ids, embedded_at=file.made_at if file else None)
    if file is not None:
        _check(here, file.path, quiet=talk.quiet)
    number = spare = freed = 0
    with progress.shown(None):
        alike = duplicates.stars(index.vectors, here.rows, min_similarity, done=progress.comparing)
        groups = [*duplicates.grouped(index.ids, alike, here.bytes, FileHashes(embedder.cache_dir))]
    for number, group in enumerate(groups, 1):
        spare, freed = spare + len(group) - 1, freed + sum(image.bytes for image in group[1:])
        put_out(lines(_rows(group, number, name, form, decimals), null=files.null and form == "paths"))
    if form == "table" and groups:
        put_out(f"{spare:,} of {len(here.rows):,} images resemble another one; they take {in_words(freed)}\n")
    if not groups and not talk.quiet:
        say(f"no two of {len(here.rows):,} images are so similar")
    if selection is not None:
        with progress.after():
            embedder.compile()
    raise typer.Exit(code if groups else FAILED)


def _check(here: "Files", file: Path, *, quiet: bool) -> None:
    """Name what is in a file of embeddings and cannot be compared.

    Raises:
        ClipzsError: nothing is left.
    """
    if not len(here.rows):
        raise ClipzsError(
            f"{file}: none of its images can be compared, e.g. {[*here.gone, *here.changed][0]}",
            hint="they are not there, or are newer than the file; --root DIR says where relative paths start",
        )
    for paths, what in ((here.gone, "not there"), (here.changed, f"newer than {file}")):
        if paths and not quiet:
            say(f"{len(paths):,} images are {what} and left out, e.g. {paths[0]}", kind="warning")


def _rows(group: "Sequence[Image]", number: int, model: str, form: str, decimals: int) -> list[str]:
    from clipzs.paths import printable
    from clipzs.results import printed
    from clipzs.sizes import in_words
    from clipzs.writers import json_text, tsv_field

    ranked = [*enumerate(group, 1)]
    if form == "jsonl":
        return [json_text(image.as_json(number, rank, model, decimals)) for rank, image in ranked]
    if form == "paths":
        return [image.path for image in group[1:]]
    if form == "tsv":
        return [
            "\t".join([
                tsv_field(image.path), printed(image.similarity, decimals), f"{number}", f"{rank}", f"{image.bytes}",
                tsv_field(image.copy_of or ""),
            ])
            for rank, image in ranked
        ]  # fmt: skip
    rows = [f"group {number}"]
    for rank, image in ranked:
        how = "first" if rank == 1 else "copy" if image.copy_of else f"{image.similarity:.3f}"
        rows.append(f"  {how:>5}  {in_words(image.bytes):>8}  {printable(image.path)}")
    return [*rows, ""]
