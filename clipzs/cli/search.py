"""`clipzs search`: text or images to the images that fit them best."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.gathering import EmbeddingsFile, gathered, lines, stored, templates_of
from clipzs.cli.groups import FilesGroup, ModelGroup, PromptGroup, ReadingGroup, TalkGroup, grouped, options
from clipzs.cli.narration import Progress, say, set_up
from clipzs.cli.running import concluded, format_of, selected
from clipzs.errors import FAILED, ClipzsError, UsageProblem

if TYPE_CHECKING:
    from clipzs.embedder import Embedder
    from clipzs.score import Array
    from clipzs.searching import Hit

QUERY = "Query"
STDIN = "-"


@grouped
def search(
    ctx: typer.Context,
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", help="What to look for, in words; - reads queries, one a line. It may be left "
                       "out with --like and --text."),
    ] = None,
    paths: o.Paths = None,
    *,
    text: Annotated[list[str], o.repeated("--text", metavar="TEXT", help="And this.", panel=QUERY)],
    like: Annotated[list[str], o.repeated("--like", metavar="IMAGE", help="And what looks like this.", panel=QUERY)],
    not_: Annotated[list[str], o.repeated("--not", metavar="TEXT", help="But not this.", panel=QUERY)],
    not_like: Annotated[
        list[str], o.repeated("--not-like", metavar="IMAGE", help="But not what looks like this.", panel=QUERY)
    ],
    top_k: Annotated[
        int, o.option("--top-k", "-k", metavar="N", min=1, help="How many to show, at most.", panel=o.ANSWERS)
    ] = defaults.FOUND,
    min_score: Annotated[
        float | None,
        o.option("--min-score", metavar="SCORE", min=-1.0, max=1.0, help="Leave out what has less.", panel=o.ANSWERS),
    ] = None,
    decimals: o.Decimals = defaults.DECIMALS,
    prompts: PromptGroup,
    model: ModelGroup,
    embeddings: EmbeddingsFile = None,
    root: o.Root = None,
    files: FilesGroup,
    reading: ReadingGroup,
    format_: Annotated[
        Literal["table", "jsonl", "tsv", "paths"] | None,
        o.option("--format", "-f", help="Unless given: table on a terminal, tsv in a pipe.", panel=o.OUTPUT),
    ] = None,
    json: Annotated[bool, o.option("--json", help="Short for --format jsonl: one JSON object a hit.", panel=o.OUTPUT)]
    = False,
    talk: TalkGroup,
) -> None:  # fmt: skip
    """Find the images that fit words, or other images, best.

    Images that were seen before come from the cache, and are not read. Words are taken as they are unless templates
    are named. The score is the cosine similarity of an image and the query: it says which fits better, not whether one
    fits.

    Exit codes: 0 something was found, 1 nothing was, or it failed, 2 wrong usage, 3 found, but some images could not be
    read, 130 stopped with Ctrl-C (143 by SIGTERM); what was embedded is in the cache.
    """  # fmt: skip
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    if embeddings is None or like or not_like:
        from clipzs.decoders import DECODERS

        DECODERS.start()
    from clipzs.embeddings import Collected
    from clipzs.options import checked
    from clipzs.output import put_out
    from clipzs.remote import embedder_for
    from clipzs.searching import Hit, nearest

    format_, json = o.as_typed(ctx, format_=format_ or "", json=json)
    form = format_of(format_, json, None)
    words, places = _told_apart(
        query, paths or [], text, like, elsewhere=bool(embeddings or files.files_from or files.null)
    )
    file = stored(embeddings, places, files, root) if embeddings else None
    if file is not None and model.model is None and model.model_config is None:
        model.model = file.model_to_load
    selection = None if file else selected(places, files)
    if query == STDIN and selection is not None and STDIN in (*selection.paths, *selection.lists):
        raise UsageProblem("queries and paths are both read from standard input", hint="name images, or --files-from")
    progress = Progress(enabled=not talk.quiet, until_first=False)
    embedder = embedder_for(
        checked(options(model, reading, prompts)), progress=progress.prompts, compiling=progress.compiling
    )
    if file is not None:
        file.check_made_with(embedder.model.name, embedder.model.digest)
    asking = _Asking(embedder, templates_of(prompts), words, like, not_, not_like)
    queries: Iterable[tuple[str, Array]]
    with progress.shown(None):
        queries = asking.each(_typed(quiet=talk.quiet)) if query == STDIN else [asking.one()]
    code, found = 0, Collected()
    if selection is not None:
        run = gathered(embedder, selection, found.put, progress)
        code = concluded(run, reasons_shown=False, quiet=talk.quiet)
    index = file or found
    some = False
    for name, vector in queries:
        hits = nearest(index.vectors, vector, top_k=top_k, least=min_score)
        named = [Hit(index.ids[row], score, rank) for rank, (row, score) in enumerate(hits, 1)]
        if form == "table" and query == STDIN and not sys.stdin.isatty():
            put_out(lines([name]))
        put_out(lines(_rows(named, name, embedder.model.name, form, decimals), null=files.null and form == "paths"))
        some |= bool(named)
    if not some and not talk.quiet:
        say("nothing was found")
    if selection is not None:
        with progress.after():
            embedder.compile()
    raise typer.Exit(code if some else FAILED)


def _told_apart(
    query: str | None, paths: list[str], text: list[str], like: list[str], *, elsewhere: bool
) -> tuple[list[str], list[str]]:
    """Texts to look for, and paths.

    Where options say what to look for, words may be left out: a first argument that is there as a file or folder is a
    path then.

    Args:
        query: the first argument.
        paths: the others.
        text: of the options.
        like: of the options.
        elsewhere: whether options name images, too.

    Raises:
        UsageProblem: nothing says what to look for.
    """
    example = 'clipzs search "a dog on a beach" '
    if query is None or ((text or like) and os.path.exists(query)):
        if not (text or like):
            raise UsageProblem("nothing says what to look for", hint=f"in words: {example}PATHS")
        return text, [*([query] if query else []), *paths]
    if not query.strip():
        raise UsageProblem("the query is empty", hint=f"say in words what to look for: {example}PATHS")
    if not (paths or elsewhere) and os.path.exists(query):
        raise UsageProblem(f"nothing says what to look for in {query}", hint=f"in words, before it: {example}{query}")
    return [*([] if query == STDIN else [query]), *text], paths


class _Asking:
    """Queries of words and images, each made one direction."""

    def __init__(
        self,
        embedder: "Embedder",
        templates: tuple[str, ...],
        words: Sequence[str],
        like: Sequence[str],
        unlike_words: Sequence[str],
        unlike: Sequence[str],
    ) -> None:
        self._embedder = embedder
        self._templates = templates
        self._words, self._like, self._unlike_words, self._unlike = words, like, unlike_words, unlike

    def one(self) -> "tuple[str, Array]":
        """What is asked for once: its name and float32 [d]."""
        return self._made(self._words)

    def each(self, texts: Iterable[str]) -> "Iterator[tuple[str, Array]]":
        """The same for each of several texts, with all else that is asked for."""
        for text in texts:
            yield self._made([text, *self._words])

    def _made(self, words: Sequence[str]) -> "tuple[str, Array]":
        from clipzs.searching import combined

        negative = (f"not {one}" for one in self._unlike_words), (f"not like {one}" for one in self._unlike)
        name = ", ".join([*words, *(f"like {one}" for one in self._like), *negative[0], *negative[1]])
        return name, combined(
            [*self._texts(words), *self._images[0]], [*self._texts(self._unlike_words), *self._images[1]]
        )

    def _texts(self, texts: Sequence[str]) -> "Sequence[Array]":
        from clipzs.searching import embedded

        return list(embedded(self._embedder, texts, self._templates)) if texts else []

    @cached_property
    def _images(self) -> "tuple[list[Array], list[Array]]":
        """Of what it shall be like, and of what it shall not."""
        vectors: list[Array] = []
        paths = [*self._like, *self._unlike]
        if paths:
            with closing(self._embedder.batches(paths)) as batches:
                for batch in batches:
                    for path, error in zip(batch.names, batch.errors, strict=True):
                        if error is not None:
                            raise ClipzsError(f"{path}: {error}", hint="--like and --not-like take images")
                    vectors += list(batch.vectors)
        return vectors[: len(self._like)], vectors[len(self._like) :]


def _typed(*, quiet: bool) -> Iterator[str]:
    """Queries on standard input, each as soon as its line is there."""
    prompted = sys.stdin.isatty() and not quiet
    if prompted:
        say("type what to look for; Ctrl-D ends")
    for number in count(1):
        if prompted:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.buffer.readline()
        if not line:
            if prompted:
                sys.stderr.write("\n")
            return
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise UsageProblem(f"standard input:{number}: not UTF-8 text") from error
        if text:
            yield text


def _rows(hits: "Sequence[Hit]", query: str, model: str, form: str, decimals: int) -> list[str]:
    from clipzs.paths import printable
    from clipzs.results import printed
    from clipzs.writers import json_text, tsv_field

    if form == "jsonl":
        return [json_text(hit.as_json(query, model, decimals)) for hit in hits]
    if form == "paths":
        return [hit.path for hit in hits]
    if form == "tsv":
        return [
            f"{tsv_field(hit.path)}\t{printed(hit.score, decimals)}\t{hit.rank}\t{tsv_field(query)}" for hit in hits
        ]
    return [f"{hit.rank:>4}  {hit.score:>6.3f}  {printable(hit.path)}" for hit in hits]
