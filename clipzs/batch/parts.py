"""A job cut into parts: what is done at once, and done again if it was stopped."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clipzs.writers import json_text

LISTING = "inputs.jsonl"  # the list of all inputs, in the folder of the output
Kind = Literal["paths", "tar", "parquet"]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a job. Its images, and their order, are always the same.

    Attributes:
        id: its number, from 0 on.
        kind: what its images are in: files of their own, an archive, a table.
        source: the archive or table; of files of their own, nothing.
        start: where it starts: a byte of the list of inputs, or a row group of the table.
        stop: the first byte or row group behind it; 0 of an archive or table that is taken whole.
        images: how many; None where that is not known before they are read.
    """

    id: int
    kind: Kind
    source: str
    start: int
    stop: int
    images: int | None

    @property
    def name(self) -> str:
        """Its number as files are named after it."""
        return f"{self.id:06}"

    def as_line(self) -> bytes:
        """A line of JSON, with its end."""
        return (json_text(asdict(self)) + "\n").encode()


def read(line: bytes) -> Part:
    """A part of the line that `Part.as_line` made of it."""
    return Part(**json.loads(line))


def planned(lines: Iterable[bytes], size: int, *, start: int = 0) -> Iterator[Part]:
    """The parts of listed inputs. They depend on nothing else, so that who plans again plans the same.

    Args:
        lines: of the list, with their ends: a path, or a path and why it has no image, in JSON; or an object that names
            an archive or a table, with the rows of its groups.
        size: images of a part, where it can be chosen.
        start: bytes before the first line.
    """
    number, first, count, at = 0, start, 0, start
    for line in lines:
        shard = json.loads(line) if line.startswith(b"{") else None
        if count and (shard or count == size):
            yield Part(number, "paths", "", first, at, count)
            number, count = number + 1, 0
        if count == 0:
            first = at
        at += len(line)
        if shard is None:
            count += 1
            continue
        for kind, source, begin, end, images in _cut(shard, size):
            yield Part(number, kind, source, begin, end, images)
            number += 1
    if count:
        yield Part(number, "paths", "", first, at, count)


def _cut(shard: dict[str, Any], size: int) -> Iterator[tuple[Kind, str, int, int, int | None]]:
    """An archive as it is; a table between its row groups."""
    if "tar" in shard:
        yield "tar", shard["tar"], 0, 0, None
        return
    source, rows = shard["parquet"], shard["rows"]
    if rows is None:  # it could not be looked into
        yield "parquet", source, 0, 0, None
        return
    first = count = 0
    for group, more in enumerate(rows):
        if count and count + more > size:
            yield "parquet", source, first, group, count
            first, count = group, 0
        count += more
    if rows:
        yield "parquet", source, first, len(rows), count
