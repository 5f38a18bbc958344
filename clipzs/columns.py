"""Records as the columns of a Parquet table, there and back, a row group at a time. pyarrow is imported when needed."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from clipzs.errors import UsageProblem
from clipzs.paths import encodable
from clipzs.results import Result, Score, printed

if TYPE_CHECKING:
    from clipzs.score import Array

ROWS = 65_536  # in a row group, at most
BYTES = 64_000_000  # of a row group before it is compressed, about: what is held at once
EMBEDDING = "embedding"
Dtype = Literal["float32", "float16"]
_ODD = "clipzs.names"  # key of the paths that Parquet's texts cannot hold, by row
_READ_AT_ONCE = 1024


def needed() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        UsageProblem: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageProblem("Parquet needs pyarrow", hint="pip install 'clipzs[parquet]'") from error
    return pyarrow, parquet


class RecordTable:
    """One row a record, unreadable images among them; columns as the keys of the JSON record.

    Texts are UTF-8 in Parquet: of a path that is not, the odd bytes are written as \\xff, and the path itself goes into
    the metadata of the file.

    Attributes:
        rows: in the file; those of the last row group are there when it is closed.
    """

    def __init__(
        self,
        opened: Callable[[], BinaryIO],
        *,
        embeddings: Dtype | None = None,
        decimals: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """See that pyarrow is there.

        Args:
            opened: gives the file to write to, which stays open; called when the first rows are written.
            embeddings: the numbers of a column `embedding`, null for an image that could not be read.
            decimals: of scores, as they are printed; None is as they are.
            metadata: of the file.

        Raises:
            UsageProblem: pyarrow is not installed.
        """
        self._arrow, self._parquet = needed()
        self._opened = opened
        self._embeddings = embeddings
        self._decimals = decimals
        self._tables: list[Any] = []  # of batches; together they become a row group
        self._waiting = self._bytes = self.rows = 0
        self._odd: dict[int, str] = {}
        self._writer: Any = None
        arrow = self._arrow
        text, number = arrow.string(), arrow.float64()
        scores = arrow.list_(arrow.struct([("label", text), ("score", number)]))
        # Of each column its type, and its cell of a record.
        self._columns: dict[str, tuple[Any, Callable[[Result], Any]]] = {
            "path": (text, lambda result: encodable(result.path)),
            "label": (text, lambda result: _text(result.label)),
            "score": (number, lambda result: None if result.score is None else self._number(result.score)),
            "labels": (arrow.list_(text), lambda result: _texts(result.labels)),
            "groups": (scores, lambda result: None if result.groups is None else self._scores(result.groups)),
            "scores": (scores, lambda result: self._scores(result.scores)),
            "error": (text, lambda result: _text(result.error)),
            "model": (text, lambda result: encodable(result.model)),
            "config": (text, lambda result: encodable(result.config)),
            "truth": (text, lambda result: _text(result.truth)),
            "templates": (arrow.list_(text), lambda result: _texts(result.templates)),
        }
        fields = [(name, kind) for name, (kind, _) in self._columns.items()]
        if embeddings is not None:
            # That no number is missing is said to Parquet, which then reads and writes three times as fast.
            element = arrow.field("element", arrow.float32() if embeddings == "float32" else arrow.float16(), False)
            fields.append((EMBEDDING, arrow.list_(element)))
        self._schema = arrow.schema(fields, metadata=metadata)

    def write(self, batch: Sequence[Result], vectors: "Array | None" = None) -> None:
        """Take a batch; write a row group when it is full.

        Args:
            batch: of any size.
            vectors: where there are embeddings, float32 [r, d]: of the r images of the batch that could be read.

        Raises:
            OSError: the file cannot be written.
        """
        if self._waiting + len(batch) > ROWS or self._bytes > BYTES:
            self._flush()
        columns = [self._arrow.array(map(cell, batch), kind) for kind, cell in self._columns.values()]
        if vectors is not None:
            columns.append(self._lists(batch, vectors))
        pairs = enumerate(zip(batch, columns[0].to_pylist(), strict=True), self.rows + self._waiting)
        self._odd |= {row: result.path for row, (result, text) in pairs if result.path != text}
        self._tables.append(self._arrow.Table.from_arrays(columns, schema=self._schema))
        self._waiting += len(batch)
        self._bytes += self._tables[-1].nbytes

    def _lists(self, batch: Sequence[Result], vectors: "Array") -> Any:
        import numpy as np

        read = np.array([result.error is None for result in batch])
        ends = np.concatenate([[0], np.cumsum(read * vectors.shape[1])]).astype(np.int32)
        numbers = np.ascontiguousarray(vectors, self._embeddings).reshape(-1)
        return self._arrow.ListArray.from_arrays(
            self._arrow.array(ends), self._arrow.array(numbers), type=self._schema.field(EMBEDDING).type,
            mask=self._arrow.array(~read),
        )  # fmt: skip

    def _number(self, score: float) -> float:
        return score if self._decimals is None else float(printed(score, self._decimals))

    def _scores(self, scores: Sequence[Score]) -> list[dict[str, Any]]:
        return [{"label": encodable(one.label), "score": self._number(one.score)} for one in scores]

    def _flush(self) -> None:
        if self._writer is None:
            # Numbers of embeddings are noise, which neither packs nor repeats.
            packed = {
                leaf: field.name != EMBEDDING for field in self._schema for leaf in _leaves(field.name, field.type)
            }
            self._writer = self._parquet.ParquetWriter(
                self._opened(),
                self._schema,
                use_dictionary=[leaf for leaf, pack in packed.items() if pack],
                compression={leaf: "zstd" if pack else "none" for leaf, pack in packed.items()},
            )
        if self._tables:
            self._writer.write_table(self._arrow.concat_tables(self._tables))
        self.rows += self._waiting
        self._tables, self._waiting, self._bytes = [], 0, 0

    def close(self) -> None:
        """Write the rest, and what ends the file.

        Raises:
            OSError: the file cannot be written.
        """
        self._flush()
        if self._odd:
            self._writer.add_key_value_metadata({_ODD: json.dumps(self._odd)})
        self._writer.close()

    def abandon(self) -> None:
        """Give the file up, whatever is in it.

        Raises:
            OSError: the file cannot be written.
        """
        if self._writer is not None:
            self._writer.close()


def embeddings(file: BinaryIO) -> Iterator[tuple[list[str], "Array"]]:
    """Paths and embeddings of a table that has some, n paths and float32 [n, d] at a time; not of unreadable images."""
    import numpy as np

    _, parquet = needed()
    with parquet.ParquetFile(file) as table:
        odd, row = _odd(table), 0
        for batch in table.iter_batches(ROWS, columns=["path", EMBEDDING]):
            paths, vectors = batch["path"].to_pylist(), batch[EMBEDDING]
            for number, path in odd.items():
                if row <= number < row + len(paths):
                    paths[number - row] = path
            row += len(paths)
            read = vectors.is_valid().to_pylist()
            ids = [path for path, valid in zip(paths, read, strict=True) if valid]
            if ids:
                yield ids, np.asarray(vectors.flatten(), np.float32).reshape(len(ids), -1)


def metadata(file: BinaryIO) -> dict[str, str]:
    """What a table says of itself."""
    _, parquet = needed()
    with parquet.ParquetFile(file) as table:
        return {key.decode(): value.decode() for key, value in (table.metadata.metadata or {}).items()}


def _odd(table: Any) -> dict[int, str]:
    """The paths that texts cannot hold, by row."""
    said = json.loads((table.metadata.metadata or {}).get(_ODD.encode(), b"{}"))
    return {int(row): path for row, path in said.items()}


def rows(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """The rows of a table, each as the record that it stands for; of columns that no record has, nothing.

    Raises:
        OSError: the file cannot be read.
        UsageProblem: pyarrow is not installed.
        ValueError: it is no table, or damaged.
    """
    arrow, parquet = needed()
    try:
        with parquet.ParquetFile(file) as table:
            there = set(table.schema_arrow.names)
            names = [name for name in Result.__dataclass_fields__ if name in there]
            odd, row = _odd(table), 0
            for batch in table.iter_batches(_READ_AT_ONCE, columns=names):
                for record in batch.to_pylist():
                    if row in odd:
                        record["path"] = odd[row]
                    yield record
                    row += 1
    except OSError as error:
        if error.strerror:
            raise
        raise ValueError(_words(error)) from error
    except arrow.ArrowException as error:
        raise ValueError(_words(error)) from error


def _leaves(name: str, kind: Any) -> Iterator[str]:
    """The columns that Parquet makes of one."""
    from pyarrow import types

    if types.is_list(kind):
        yield from _leaves(f"{name}.list.element", kind.value_type)
    elif types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{name}.{field.name}", field.type)
    else:
        yield name


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _text(text: str | None) -> str | None:
    return None if text is None else encodable(text)


def _texts(texts: Sequence[str] | None) -> list[str] | None:
    return None if texts is None else [*map(encodable, texts)]
