"""What the user points at, as a list of images, archives and tables; and the images of a part of it."""

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Literal

from clipzs import stream
from clipzs.batch import fetching, lists, tables, tars
from clipzs.batch.folder import Folder
from clipzs.batch.job import Inputs
from clipzs.batch.parts import LISTING, Part
from clipzs.errors import ClipzsError, ImageError, UsageProblem
from clipzs.images import Blob
from clipzs.paths import IMAGE_SUFFIXES, SKIPPED_FOLDERS, STDIN, Found, Selection
from clipzs.writers import json_text

FETCHED_AT_ONCE = 32  # images that are on their way from elsewhere
_PARQUET = ".parquet"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_GLOB = re.compile(r"[*?[]")
_HINT = "there are folders, images, lists (.txt, .csv, .tsv, .jsonl, .parquet), archives (.tar, .tar.gz) and tables"
What = Literal["folder", "image", "text", "table", "tar", "parquet"]


def listed(inputs: Inputs) -> Iterator[bytes]:
    """A line for each image, archive and table, as `parts.planned` takes them, in the order in which they are named.

    What is in a folder is sorted by its name, as `Selection` does; what a pattern means, too.

    Raises:
        UsageProblem: something is not there, or of no kind that is known.
        SourceError: a place elsewhere cannot be looked into.
    """
    yield from _of_named(inputs)
    for name in inputs.lists:
        yield from map(_line, lists.texts(name, null=inputs.null))


def _of_named(inputs: Inputs) -> Iterator[bytes]:
    named = ((name, _what(name)) for given in inputs.paths for name in _expanded(given))
    # To find out what is in a table takes a while where it is far away.
    looked = stream.batches(named, _looked, size=FETCHED_AT_ONCE, threads=FETCHED_AT_ONCE)
    with closing(looked) as batches:
        for name, what, layout in itertools.chain.from_iterable(batches):
            if what == "folder":
                found = _in_far_folder(name, inputs) if fetching.is_url(name) else _in_folder(name, inputs)
                yield from (_line(one.path, one.error) for one in found)
            elif what == "image":
                yield _line(name)
            elif what == "text":
                yield from map(_line, lists.texts(name, null=inputs.null))
            elif what == "table" or layout == "list":
                yield from map(_line, lists.rows(name, _suffix(name)))
            elif what == "tar":
                yield _object(tar=name)
            else:
                yield _object(parquet=name, rows=layout)


def _line(path: str, error: str | None = None) -> bytes:
    return (json_text(path if error is None else [path, error]) + "\n").encode()


def _object(**named: Any) -> bytes:
    return (json_text(named) + "\n").encode()


def _looked(named: tuple[str, What]) -> tuple[str, What, Any]:
    """Of a Parquet table the rows of its groups, None where it is damaged, or "list" if it has paths."""
    name, what = named
    if what != "parquet":
        return name, what, None
    try:
        with tables.open_table(name) as table:
            if tables.layout(table.schema_arrow) is None:
                if lists.path_column(table.schema_arrow.names) is None:
                    raise UsageProblem(
                        f"{name}: no column of images or of paths, but {', '.join(table.schema_arrow.names)[:200]}",
                        hint="a column of images holds the bytes of files, one of paths is called path or url",
                    )
                return name, what, "list"
            groups = range(table.num_row_groups)
            return name, what, [table.metadata.row_group(group).num_rows for group in groups]
    except tables.NotATable:
        return name, what, None


def _expanded(given: str) -> Iterator[str]:
    """What braces and patterns mean; a name that is there as it is means itself."""
    if given == STDIN or (not fetching.is_url(given) and os.path.lexists(given)):
        yield given
        return
    for name in _alternatives(given):
        far = fetching.is_url(name)
        if not _GLOB.search(name) or (far and fetching.is_web(name)):  # in an address ? is no pattern
            yield name
            continue
        found = fetching.glob(name) if far else sorted(glob.glob(name, recursive=True), key=os.fsencode)
        if not found:
            raise UsageProblem(f"{name}: nothing matches")
        yield from found


def _alternatives(name: str) -> Iterator[str]:
    """A name with `{000..099}` or `{a,b}` as each of those that it stands for."""
    for match in _BRACES.finditer(name):
        numbers = _RANGE.fullmatch(match[1])
        if numbers is None and "," not in match[1]:
            continue
        before, after = name[: match.start()], name[match.end() :]
        if numbers is None:
            choices: Iterator[str] = iter(match[1].split(","))
        else:
            first, last = int(numbers[1]), int(numbers[2])
            width = len(numbers[1]) if numbers[1].startswith("0") or len(numbers[1]) == len(numbers[2]) else 0
            step = 1 if last >= first else -1
            choices = (f"{number:0{width}}" for number in range(first, last + step, step))
        for choice in choices:
            yield from (before + choice + rest for rest in _alternatives(after))
        return
    yield name


def _what(name: str) -> What:
    """By its suffix or, on this machine, by what it is.

    Raises:
        UsageProblem: it is not there, or none of all.
    """
    suffix, far = _suffix(name), fetching.is_url(name)
    if name == STDIN:
        return "text"
    if far:
        fetching.check(name)
    elif os.path.isdir(name):
        return "folder"
    elif not os.path.exists(name):
        raise UsageProblem(f"{name}: no such file or folder", hint=_HINT)
    if name.split("?")[0].lower().endswith(tars.SUFFIXES) if far else name.lower().endswith(tars.SUFFIXES):
        return "tar"
    if suffix == _PARQUET:
        return "parquet"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in lists.TEXTS:
        return "text"
    if suffix in lists.TABLES:
        return "table"
    if not far:
        return _by_content(name)
    if fetching.is_web(name):
        raise UsageProblem(f"{name}: what it is cannot be told by its name", hint=_HINT)
    return "folder"


def _by_content(name: str) -> What:
    try:
        with open(name, "rb") as file:
            if file.read(4) == b"PAR1":
                return "parquet"
        if tarfile.is_tarfile(name):
            return "tar"
    except OSError as error:
        raise UsageProblem(f"{name}: cannot be read: {error.strerror}") from error
    raise UsageProblem(
        f"{name}: neither an image nor a list, an archive or a table, by its name",
        hint="--files-from takes a list of any name, with a path a line",
    )


def _suffix(name: str) -> str:
    """Of a file's name; a URL may have more behind it."""
    path = re.split(r"[?#]", name)[0] if fetching.is_url(name) else name
    return os.path.splitext(path)[1].lower()


def _in_folder(name: str, inputs: Inputs) -> Iterator[Found]:
    return Selection([name], recursive=inputs.recursive, exclude=inputs.exclude).find()


def _in_far_folder(url: str, inputs: Inputs) -> Iterator[Found]:
    """As in a folder of this machine; of each folder its images come before those of the folders inside."""
    files, top = fetching.filesystem(url)
    rules = Selection(exclude=inputs.exclude)
    problem: list[Exception] = []
    for folder, inside, names in files.walk(top, on_error=problem.append, detail=False):
        kept = [name for name in inside if not _hidden(name) and not rules.excludes(name, f"{folder}/{name}")]
        inside[:] = sorted(kept) if inputs.recursive else []
        for name in sorted(names):
            path = f"{folder}/{name}"
            wanted = not _hidden(name) and _suffix(name) in IMAGE_SUFFIXES
            if wanted and not rules.excludes(name, path):
                yield Found(str(files.unstrip_protocol(path)))
    if problem:
        yield Found(url, f"cannot look into this folder: {fetching.words(problem[0])}")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SKIPPED_FOLDERS


def images(part: Part, folder: Folder, *, timeout: float) -> Iterator[Blob | Found]:
    """The images of a part, always in the same order; what cannot be read is one with its error.

    Not much more is held than is asked for.

    Args:
        part: of a plan.
        folder: where the plan is.
        timeout: seconds that an image may take to be fetched; 0 is without end.

    Raises:
        SourceError: an archive or table cannot be reached, or read to its end.
        ClipzsError: the list of inputs, or a package, is missing.
    """
    if part.kind == "tar":
        return tars.images(part.source)
    if part.kind == "parquet":
        return tables.images(part.source, part.start, part.stop)
    return _fetched(_entries(part, folder), timeout)


def _entries(part: Part, folder: Folder) -> Iterator[Found]:
    try:
        with folder.open(LISTING, part.start, part.stop) as file:
            for _ in range(part.images or 0):
                entry = json.loads(file.readline())
                yield Found(entry) if isinstance(entry, str) else Found(*entry)
    except (OSError, ValueError, TypeError) as error:
        raise ClipzsError(
            f"{folder.place}/{LISTING} cannot be read, or was changed: {fetching.words(error)}",
            hint="start the job anew in another folder",
        ) from error


def _fetched(found: Iterator[Found], timeout: float) -> Iterator[Blob | Found]:
    """Files of this machine as they are, to be read later; those of others as they arrive, in order."""

    def fetch(one: Found) -> Blob | Found:
        if one.error is not None or not fetching.is_url(one.path):
            return one
        try:
            return Blob(one.path, fetching.fetch(one.path, timeout))
        except ImageError as error:
            return Found(one.path, str(error))

    for one in found:
        if one.error is None and fetching.is_url(one.path):
            break
        yield one
    else:
        return
    rest = itertools.chain([one], found)
    with closing(stream.batches(rest, fetch, size=FETCHED_AT_ONCE, threads=FETCHED_AT_ONCE)) as batches:
        yield from itertools.chain.from_iterable(batches)
