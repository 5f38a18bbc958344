"""Parquet tables that hold images, as of img2dataset and of Hugging Face datasets. pyarrow is imported when needed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clipzs import columns
from clipzs.batch import fetching
from clipzs.errors import SourceError
from clipzs.images import Blob
from clipzs.paths import IMAGE_SUFFIXES, Found

_BUFFER = 1 << 20  # bytes of a table that are read together
_AT_ONCE = 64  # rows that are taken out of the table together, and
_BYTES_AT_ONCE = 32_000_000  # about how many bytes
# How columns of image files are called: as the image's format by img2dataset, as below by others.
_NAMES = ("image", "img", "image_bytes", "bytes", "content", "data", *(one[1:] for one in sorted(IMAGE_SUFFIXES)))
_KEYS = ("key", "__key__")
_BYTES, _PATH = "bytes", "path"  # fields of an image of a Hugging Face dataset
_STATUS, _REASON, _SUCCESS = "status", "error_message", "success"


class NotATable(Exception):
    """It is no Parquet table, or damaged; says so in words."""


@dataclass(frozen=True)
class Layout:
    """Where a table has what is of use.

    Attributes:
        image: the column of image files, and
        struct: whether it holds `bytes` and `path`, rather than bytes.
        key: the column that names a row.
        status: the column that says whether the download had success, and
        reason: why it had none.
    """

    image: str
    struct: bool
    key: str | None
    status: str | None
    reason: str | None

    @property
    def columns(self) -> list[str]:
        """All of them."""
        image = [f"{self.image}.{_BYTES}", f"{self.image}.{_PATH}"] if self.struct else [self.image]
        return [*image, *(one for one in (self.key, self.status, self.reason) if one)]


def layout(schema: Any) -> Layout | None:
    """What an Arrow schema says; None if there is no column of image files."""
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    plain, structs = [], []
    for field in schema:
        if is_binary(field.type):
            plain.append(field.name)
        elif types.is_struct(field.type):
            inside = {field.type.field(place).name: field.type.field(place) for place in range(field.type.num_fields)}
            if _BYTES in inside and _PATH in inside and is_binary(inside[_BYTES].type):
                structs.append(field.name)
    image = _chosen(structs) or _chosen(plain)
    if image is None:
        return None
    there = set(schema.names)
    key = next((one for one in _KEYS if one in there), None)
    return Layout(image, image in structs, key, *((one if one in there else None) for one in (_STATUS, _REASON)))


def _chosen(names: Sequence[str]) -> str | None:
    """The usual name, or else the only one."""
    small = {name.lower(): name for name in reversed(names)}
    return next((small[name] for name in _NAMES if name in small), names[0] if len(names) == 1 else None)


@contextmanager
def open_table(name: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        NotATable: it is none, or, inside the block, damaged.
        SourceError: it is not there, or cannot be read.
        UsageProblem: a package is missing.
    """
    arrow, parquet = columns.needed()
    file = fetching.open_anywhere(name) if fetching.is_url(name) else None
    try:
        # With a buffer it reads a column page by page, which otherwise would be held whole.
        with parquet.ParquetFile(file or name, buffer_size=_BUFFER) as table:
            yield table
    except OSError as error:
        # Of pyarrow both a damaged page and a disk that fails are an OSError; what the system says has a number.
        if error.errno is not None:
            raise SourceError(f"{name}: cannot be read: {fetching.words(error)}") from error
        raise NotATable(f"not a Parquet table, or damaged: {fetching.words(error)}") from error
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise NotATable(f"not a Parquet table, or damaged: {fetching.words(error)}") from error
    finally:
        if file is not None:
            file.close()


def images(name: str, start: int, stop: int) -> Iterator[Blob | Found]:
    """The images of a table, one a row; of a row that has none the reason, and of damage one for all behind it.

    Args:
        name: of the table: a path or a URL.
        start: the first row group.
        stop: the one behind the last; 0 is the end.

    Raises:
        SourceError: it cannot be reached.
    """
    row = 0
    try:
        with open_table(name) as table:
            found = layout(table.schema_arrow)
            if found is None:
                yield Found(name, "no column holds images")
                return
            groups = [table.metadata.row_group(group) for group in range(table.num_row_groups)]
            row = sum(group.num_rows for group in groups[:start])
            wanted = range(start, stop or len(groups))
            rows = _rows([groups[group] for group in wanted])
            for batch in table.iter_batches(rows, row_groups=wanted, columns=found.columns, use_threads=False):
                for place in range(batch.num_rows):
                    record = {key: batch.column(key)[place].as_py() for key in batch.schema.names}
                    yield _image(name, row, record, found)
                    row += 1
    except NotATable as error:
        yield Found(name, f"{error}; images from row {row:,} on are lost" if row else str(error))


def _rows(groups: Sequence[Any]) -> int:
    """How many rows are taken out of some row groups together."""
    count: int = sum(group.num_rows for group in groups)
    size: int = sum(group.total_byte_size for group in groups)
    return max(1, min(_AT_ONCE, _BYTES_AT_ONCE * count // (size or 1)))


def _image(name: str, row: int, record: dict[str, Any], found: Layout) -> Blob | Found:
    value = record[found.image]
    data, path = (value.get(_BYTES), value.get(_PATH)) if found.struct and value else (value, None)
    key = record.get(found.key) if found.key else path
    name = f"{name}/{f'{row:09}' if key in (None, '') else key}"
    if found.status and record[found.status] not in (None, _SUCCESS):
        reason = record.get(found.reason) if found.reason else None
        return Found(name, f"not downloaded: {reason or record[found.status]}")
    return Blob(name, data) if data else Found(name, "no image in this row")
