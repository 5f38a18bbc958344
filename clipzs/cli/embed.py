"""`clipzs embed`: embeddings of images or texts into a file."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipzs import __version__
from clipzs.cli import options as o
from clipzs.cli.gathering import gathered, templates_of
from clipzs.cli.groups import FilesGroup, ModelGroup, PromptGroup, ReadingGroup, TalkGroup, grouped, options
from clipzs.cli.narration import Progress, say, set_up
from clipzs.cli.running import concluded, selected
from clipzs.errors import UsageProblem

if TYPE_CHECKING:
    from clipzs.embedder import Embedder
    from clipzs.embeddings import Dtype, Facts

TEXTS = "Texts"
AT_ONCE = 4096  # texts that are embedded together
STDIN = "-"


@grouped
def embed(
    ctx: typer.Context,
    paths: o.Paths = None,
    *,
    output: Annotated[
        Path | None,
        o.option("--output", "-o", metavar="FILE", help="Write there: a .npy, .safetensors or .parquet.",
                 panel=o.OUTPUT),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"],
        o.option("--dtype", help="Of the numbers; float16 has half the size and three digits.", panel=o.OUTPUT),
    ] = "float32",
    text: Annotated[
        list[str], o.repeated("--text", metavar="TEXT", help="In place of images: a text.", panel=TEXTS)
    ],
    texts: Annotated[
        str | None,
        o.option("--texts", metavar="FILE", help="In place of images: a file of texts, one a line; - reads standard "
                 "input.", panel=TEXTS),
    ] = None,
    prompts: PromptGroup,
    model: ModelGroup,
    files: FilesGroup,
    reading: ReadingGroup,
    talk: TalkGroup,
) -> None:  # fmt: skip
    """Write embeddings of images, or of texts, to a file: a row for each, of length 1, and what it is of.

    `clipzs search` and `clipzs dupes` take such files; numpy, safetensors and pyarrow read them. Images come from the
    cache where they have been seen before.

    Exit codes: 0 all are in the file, 1 failed or nothing to embed, 2 wrong usage, 3 all but some images that could not
    be read, 130 stopped with Ctrl-C (143 by SIGTERM): nothing is written then, and the cache has what was done.
    """  # fmt: skip
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    of_texts = bool(text or texts is not None)
    if not of_texts:
        from clipzs.decoders import DECODERS

        DECODERS.start()
    from clipzs import embeddings
    from clipzs.options import checked
    from clipzs.output import check_apart, check_writable
    from clipzs.remote import embedder_for

    if output is None:
        raise UsageProblem("nothing says where the embeddings are to be written", hint="name a file: -o FILE.npy")
    if of_texts and (paths or files.files_from):
        raise UsageProblem("a file holds images or texts, and both are named", hint="make a file of each")
    selection = None if of_texts else selected(paths or [], files)
    embeddings.check(output)
    written = [output, embeddings.beside(output)] if output.suffix.lower() == ".npy" else [output]
    for file in written:
        check_apart(file, [*files.files_from, *([texts] if texts else [])])
        check_writable(file)
    progress = Progress(enabled=not talk.quiet, until_first=False)
    embedder = embedder_for(
        checked(options(model, reading, prompts)), progress=progress.prompts, compiling=progress.compiling
    )
    made = embeddings.Facts(embedder.model.name, embedder.model.digest, "texts" if of_texts else "images", __version__)
    code = 0
    if selection is None:
        count = _texts(embedder, [*text, *_lines(texts)], templates_of(prompts), output, made, dtype, progress)
    else:
        with embeddings.written(output, made, dtype) as put:
            run = gathered(embedder, selection, put, progress)
        count = run.images - run.errors
        code = concluded(run, reasons_shown=False, quiet=talk.quiet)
        with progress.after():
            embedder.compile()
    if not talk.quiet:
        say(f"{output}: {count:,} {made.of} by {made.model}")
    raise typer.Exit(code)


def _texts(
    embedder: "Embedder",
    texts: list[str],
    templates: tuple[str, ...],
    output: Path,
    made: "Facts",
    dtype: "Dtype",
    progress: Progress,
) -> int:
    """Embed and write; their number."""
    from clipzs import embeddings, searching

    if not texts:
        raise UsageProblem("there are no texts", hint="--texts takes a file with one a line")
    left = iter(texts)
    with embeddings.written(output, made, dtype) as put, progress.shown(None):
        while some := list(islice(left, AT_ONCE)):
            put(some, searching.embedded(embedder, some, templates))
    return len(texts)


def _lines(file: str | None) -> Iterator[str]:
    """Lines that are not empty.

    Raises:
        UsageProblem: the file cannot be read, or is no text.
    """
    if file is None:
        return
    from clipzs.textfiles import decoded, read_text

    if file == STDIN:
        name, content = "standard input", decoded(sys.stdin.buffer.read(), "standard input", UsageProblem)
    else:
        name, content = file, read_text(Path(file), UsageProblem)
    for number, line in enumerate(content.split("\n"), 1):
        if "\0" in line:
            raise UsageProblem(f"{name}:{number}: a NUL byte is in it", hint="texts are UTF-8, one a line")
        if line.strip():
            yield line.removesuffix("\r")
