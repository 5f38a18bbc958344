"""Embeddings in files, with what each row is of and which model made it: .npy, .safetensors and Parquet.

Rows are written as they come, so that a million of them need no memory; a file takes its place in one step at the end.
Nothing in a file is run. Rows of .npy and .safetensors in float32 stay on the disk until they are used.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from clipzs import columns
from clipzs.errors import ClipzsError, EmbeddingsError, UsageProblem
from clipzs.output import problem, replacing
from clipzs.resolve import of_anyone
from clipzs.score import Array
from clipzs.writers import json_text

FORMAT = 1
KEY = "clipzs.embeddings"  # of the metadata that holds the facts, in .safetensors and Parquet
Dtype = Literal["float32", "float16"]
Rows = NDArray[np.float32] | NDArray[np.float16]  # [n, d], of length 1
AT_ONCE = 1 << 16  # rows that are worked on together
_INSTALL = "pip install 'clipzs[parquet]'"
_MAKE = "make one: clipzs embed PATHS -o FILE.npy"
_ODD = "clipzs.names"  # key of the names that Parquet's texts cannot hold, by row
_SAMPLED = 1024  # rows by which the two files of .npy know each other
_ROUNDING = 4e-3  # of the square of a length: that of float16, and some
_LONGEST_HEADER = 10_000_000
_GROUP = 1 << 14  # rows that are written to Parquet together


@dataclass(frozen=True)
class Facts:
    """What made some embeddings.

    Attributes:
        model: its name, and
        digest: the hash by which it is known.
        of: what the rows are of.
        clipzs: the version.
        format: of the file.
    """

    model: str
    digest: str
    of: Literal["images", "texts"]
    clipzs: str
    format: int = FORMAT


@dataclass(frozen=True)
class Embeddings:
    """A file of embeddings.

    Attributes:
        path: of the file, or of a folder of parts.
        ids: of the n rows: the paths of images as they were given or found, or texts.
        vectors: float32 [n, d], rows of length 1.
        facts: what made them.
    """

    path: Path
    ids: Sequence[str]
    vectors: Array
    facts: Facts

    @property
    def made_at(self) -> float:
        """When it was written, in seconds; of a folder, when that began."""
        return (self.path / "job.json" if self.path.is_dir() else self.path).stat().st_mtime

    @property
    def model_to_load(self) -> str:
        """The name of its model, where one can go by it.

        Raises:
            EmbeddingsError: it is a file or a repository of anyone's, which no file of unknown origin may choose.
        """
        if of_anyone(self.facts.model):
            raise EmbeddingsError(
                f"{self.path} was made with {self.facts.model}", hint="name that model: --model, --pretrained"
            )
        return self.facts.model

    def check_made_with(self, model: str, digest: str) -> None:
        """See that a model is the one that made them.

        Raises:
            EmbeddingsError: it is another.
        """
        if self.facts.digest != digest:
            other = f"and this is {model}" if self.facts.model != model else "whose weights or settings were others"
            raise EmbeddingsError(
                f"{self.path} was made with {self.facts.model}, {other}",
                hint=f"use --model {self.facts.model}, or embed again",
            )


Put = Callable[[Sequence[str], Array], None]  # n ids, and float32 [n, d]


class _Format(Protocol):
    """How one kind of file is written and read."""

    def writing(self, path: Path, facts: Facts, dtype: Dtype, stack: ExitStack) -> "_Writer":
        """Start a file; the stack's end puts it in its place."""

    def read(self, path: Path) -> tuple[Sequence[str], Rows, Mapping[str, Any]]:
        """Ids, rows and facts; raises anything."""


class _Writer(Protocol):
    def put(self, ids: Sequence[str], rows: Rows) -> None:
        """Add some rows, at least one."""

    def close(self) -> None:
        """All rows are there."""


@contextmanager
def written(path: Path, facts: Facts, dtype: Dtype = "float32") -> Iterator[Put]:
    """A file for rows that come in the block: it is there at its end, and not if the block fails.

    Raises:
        UsageProblem: a name with another suffix, or no rows.
        OutputError: it cannot be written.
    """
    form, count = _format(path), 0
    try:
        with ExitStack() as stack:
            writer = form.writing(path.resolve(), facts, dtype, stack)

            def put(ids: Sequence[str], rows: Array) -> None:
                nonlocal count
                if len(ids):
                    count += len(ids)
                    writer.put(ids, np.ascontiguousarray(rows, np.dtype(dtype).newbyteorder("<")))

            yield put
            if not count:
                raise UsageProblem(f"{path}: there is nothing to write")
            writer.close()
    except OSError as error:
        raise problem(path, error) from error


def check(path: Path) -> None:
    """See that a file of this name can be written here.

    Raises:
        UsageProblem: its suffix is none of `SUFFIXES`.
        ClipzsError: pyarrow is missing, for Parquet.
    """
    _format(path)


def read(path: Path) -> Embeddings:
    """A file of embeddings, or a folder of `clipzs batch --embeddings`, checked.

    Raises:
        EmbeddingsError: there is none, or it is damaged, of a newer format, or something else.
        ClipzsError: pyarrow is missing, for Parquet.
    """
    parts = (path / "job.json").is_file()
    form = _Parts() if parts else _format(path, EmbeddingsError)
    try:
        if not parts and not path.is_file():
            raise EmbeddingsError(f"{path}: {'not a file' if path.exists() else 'no such file'}", hint=_MAKE)
        ids, vectors, said = form.read(path)
        found = Embeddings(path, ids, np.asarray(vectors, np.float32), _facts(path, said))
        _check(found)
    except ClipzsError:
        raise
    except Exception as error:  # a damaged file can raise anything from a parser
        if isinstance(error, OSError) and error.strerror:
            raise EmbeddingsError(f"{path}: cannot be read: {error.strerror}") from error
        words = " ".join(str(error).split()) or type(error).__name__
        raise EmbeddingsError(f"{path}: no embeddings, or damaged: {words[:200]}", hint=_MAKE) from error
    return found


def blocks(vectors: Array, size: int = AT_ONCE) -> Iterator[Array]:
    """All rows, some at a time: float32 [size, d], the last with fewer."""
    for start in range(0, len(vectors), size):
        yield vectors[start : start + size]


class Collected:
    """Rows that come one batch after the other, in one piece of memory that grows with them."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._rows = np.empty((0, 0), np.float32)

    def put(self, ids: Sequence[str], rows: Array) -> None:
        """Add n ids and float32 [n, d]."""
        count, needed = len(self.ids), len(self.ids) + len(ids)
        if not count:
            self._rows = np.empty((needed, rows.shape[1]), np.float32)
        elif needed > len(self._rows):  # in place where the system can: no second copy of millions of rows
            self._rows.resize((max(needed, len(self._rows) * 3 // 2), self._rows.shape[1]), refcheck=False)
        self._rows[count:needed] = rows
        self.ids += ids

    @property
    def vectors(self) -> Array:
        """float32 [n, d]; not to be used any more when others have been added."""
        return self._rows[: len(self.ids)]


def _format(path: Path, error: type[UsageProblem] = UsageProblem) -> _Format:
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise error(f"{path}: embeddings are in {', '.join(SUFFIXES)}", hint=f"name it {path.with_suffix('.npy')}")
    if isinstance(form, _Parquet) and find_spec("pyarrow") is None:
        raise ClipzsError(f"{path}: Parquet needs the pyarrow package", hint=_INSTALL)
    return form


def _facts(path: Path, said: Mapping[str, Any]) -> Facts:
    if said["format"] != FORMAT:
        raise EmbeddingsError(
            f"{path}: made by clipzs {said['clipzs']}, in a format that this version cannot read",
            hint="use that version, or embed again",
        )
    facts = Facts(**{name: said[name] for name in Facts.__dataclass_fields__})
    if not all(isinstance(one, str) and one for one in (facts.model, facts.digest, facts.of, facts.clipzs)):
        raise ValueError("what it says of its model is no text")
    if facts.of not in ("images", "texts"):
        raise ValueError(f"it is of {facts.of}")
    return facts


def _check(found: Embeddings) -> None:
    """Numbers and ids that go together; reads all rows."""
    if found.vectors.ndim != 2 or not len(found.vectors) or len(found.ids) != len(found.vectors):
        raise ValueError(f"{len(found.ids):,} ids for numbers of shape {list(found.vectors.shape)}")
    start = 0
    for block in blocks(found.vectors):
        wrong = np.flatnonzero(~(np.abs(np.einsum("nd,nd->n", block, block) - 1) <= _ROUNDING))
        if len(wrong):
            row = start + int(wrong[0])
            if not np.isfinite(block[wrong[0]]).all():
                raise ValueError(f"row {row:,} has numbers that are not finite")
            raise ValueError(f"row {row:,} is not of length 1")
        start += len(block)


def _mapped(path: Path, dtype: str, shape: tuple[int, ...], offset: int, end: int | None) -> Rows:
    """Rows where they are in a file.

    Args:
        path: of the file.
        dtype: float32 or float16, little-endian, as numpy writes it.
        shape: of the numbers.
        offset: bytes before them.
        end: bytes up to their end; None is the end of the file.
    """
    if dtype not in ("<f4", "<f2"):
        raise ValueError(f"its numbers are {dtype}, not float32 or float16")
    if len(shape) != 2 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"its numbers are of shape {list(shape)}")
    size, wanted = path.stat().st_size, offset + shape[0] * shape[1] * np.dtype(dtype).itemsize
    if (size if end is None else end) != wanted or size < wanted:
        raise ValueError(f"it has {size:,} bytes, and its {shape[0]:,} rows need {wanted:,}")
    return np.memmap(path, dtype, "r", offset, shape)


# numpy


class _Npy:
    """numpy's own format, and the ids in a JSON document beside it, one a line."""

    def writing(self, path: Path, facts: Facts, dtype: Dtype, stack: ExitStack) -> _Writer:
        rows = stack.enter_context(replacing(path))
        return _NpyWriter(rows, stack.enter_context(replacing(beside(path))), facts)

    def read(self, path: Path) -> tuple[Sequence[str], Rows, Mapping[str, Any]]:
        with open(path, "rb") as file:
            if npy.read_magic(file) != (1, 0):
                raise ValueError("a version of .npy that clipzs does not write")
            shape, by_columns, dtype = npy.read_array_header_1_0(file)
            vectors = _mapped(path, "by columns" if by_columns else dtype.str, shape, file.tell(), None)
        if not beside(path).is_file():
            raise EmbeddingsError(f"{path}: {beside(path).name}, which says what its rows are of, is missing")
        said = json.loads(beside(path).read_bytes())
        if said["check"] != _checksum(vectors[:: _stride(len(vectors))]):
            raise EmbeddingsError(
                f"{path}: {beside(path).name} belongs to other numbers", hint="one of the two is older: embed again"
            )
        return _texts(said["ids"]), vectors, said


def beside(path: Path) -> Path:
    """The file with the ids of an .npy file."""
    return path.with_name(f"{path.name}.json")


class _NpyWriter:
    def __init__(self, rows: BinaryIO, ids: BinaryIO, facts: Facts) -> None:
        self._rows, self._ids, self._facts = rows, ids, facts
        self._count, self._stride = 0, 1
        self._shape: tuple[int, ...] = ()
        self._dtype = ""
        self._sample: list[Rows] = []  # of all rows, one in a stride
        ids.write(b'{"ids": [')

    def put(self, ids: Sequence[str], rows: Rows) -> None:
        if not self._count:
            self._shape, self._dtype = rows.shape[1:], rows.dtype.str
            self._head(0)
        self._draw(rows)
        self._rows.write(rows.data)
        self._ids.write((",\n" if self._count else "\n").encode() + ",\n".join(map(json_text, ids)).encode())
        self._count += len(ids)

    def _draw(self, rows: Rows) -> None:
        row = -self._count % self._stride
        while row < len(rows):
            self._sample.append(rows[row].copy())
            if len(self._sample) > _SAMPLED:
                self._sample, self._stride = self._sample[::2], 2 * self._stride
            row += self._stride - (self._count + row) % self._stride

    def _head(self, count: int) -> None:
        """numpy leaves room in it for the number of rows to grow."""
        shape = (count, *self._shape)
        npy.write_array_header_1_0(self._rows, {"descr": self._dtype, "fortran_order": False, "shape": shape})

    def close(self) -> None:
        self._rows.seek(0)
        self._head(self._count)
        self._rows.flush()
        os.fsync(self._rows.fileno())  # a disk that is full says so before one of the two files is replaced
        said = {**asdict(self._facts), "check": _checksum(np.array(self._sample, self._dtype))}
        self._ids.write(f"\n],\n{json_text(said).removeprefix('{')}\n".encode())


def _stride(count: int) -> int:
    """The smallest power of two that leaves so few rows that they are a sample."""
    stride = 1
    while -(-count // stride) > _SAMPLED:
        stride *= 2
    return stride


def _checksum(sample: NDArray[Any]) -> str:
    hashed = hashlib.sha256(json.dumps([sample.shape, sample.dtype.str]).encode())
    hashed.update(sample.tobytes())
    return hashed.hexdigest()


# safetensors


class _Safetensors:
    """Tensors `embeddings` [n, d] and `ids`, UTF-8 with a NUL behind each. Written here because its size is not known
    before the end: room is left for the header, which may end in blanks."""

    def writing(self, path: Path, facts: Facts, dtype: Dtype, stack: ExitStack) -> _Writer:
        rows = stack.enter_context(replacing(path))
        return _SafetensorsWriter(rows, stack.enter_context(tempfile.TemporaryFile(dir=path.parent)), facts)

    def read(self, path: Path) -> tuple[Sequence[str], Rows, Mapping[str, Any]]:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
            if KEY not in header.get("__metadata__", {}):
                raise EmbeddingsError(f"{path}: these are weights, but no embeddings", hint=_MAKE)
            rows, ids = header["embeddings"], header["ids"]
            start, end = rows["data_offsets"]
            dtype = {name: numpy for numpy, name in _NAMES.items()}.get(rows["dtype"], rows["dtype"])
            vectors = _mapped(path, dtype, tuple(rows["shape"]), 8 + length + start, 8 + length + end)
            start, end = ids["data_offsets"]
            file.seek(8 + length + start)
            text = file.read(end - start)
        if len(text) != end - start or not text.endswith(b"\0") or path.stat().st_size != 8 + length + end:
            raise ValueError("its ids are not whole")
        names = text[:-1].decode("utf-8", "surrogateescape").split("\0")
        return names, vectors, json.loads(header["__metadata__"][KEY])


_NAMES = {"<f4": "F32", "<f2": "F16"}


class _SafetensorsWriter:
    def __init__(self, rows: BinaryIO, ids: BinaryIO, facts: Facts) -> None:
        self._rows, self._ids, self._facts = rows, ids, facts
        self._count = 0
        self._shape: tuple[int, ...] = ()
        self._dtype = ""
        self._room = 0

    def put(self, ids: Sequence[str], rows: Rows) -> None:
        if not self._count:
            self._shape, self._dtype = rows.shape[1:], _NAMES[rows.dtype.str]
            self._room = -(-len(self._header(1 << 60, 1 << 60)) // 64) * 64 + 56  # rows begin at a multiple of 64
            self._rows.write(bytes(8 + self._room))
        self._rows.write(rows.data)
        self._ids.write("".join(f"{one}\0" for one in ids).encode("utf-8", "surrogateescape"))
        self._count += len(ids)

    def _header(self, end: int, ids: int) -> bytes:
        tensors = {
            "__metadata__": {KEY: json_text(asdict(self._facts))},
            "embeddings": {"dtype": self._dtype, "shape": [self._count, *self._shape], "data_offsets": [0, end]},
            "ids": {"dtype": "U8", "shape": [ids], "data_offsets": [end, end + ids]},
        }
        return json.dumps(tensors).encode()

    def close(self) -> None:
        end = self._rows.tell() - 8 - self._room
        header = self._header(end, self._ids.tell())
        self._ids.seek(0)
        shutil.copyfileobj(self._ids, self._rows)
        self._rows.seek(0)
        self._rows.write(struct.pack("<Q", self._room) + header.ljust(self._room))


# Parquet


class _Parquet:
    """Columns `id` and `embedding`. Texts are UTF-8 there: of a name that is not, the odd bytes are written as escapes,
    and the name itself is in the metadata."""

    def writing(self, path: Path, facts: Facts, dtype: Dtype, stack: ExitStack) -> _Writer:
        return _ParquetWriter(stack.enter_context(replacing(path)), facts, dtype)

    def read(self, path: Path) -> tuple[Sequence[str], Rows, Mapping[str, Any]]:
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            metadata = file.metadata.metadata or {}
            if KEY.encode() not in metadata:
                raise EmbeddingsError(f"{path}: a table, but no embeddings", hint=_MAKE)
            d = file.schema_arrow.field("embedding").type.list_size
            ids, vectors = list[str](), np.empty((file.metadata.num_rows, d), np.float32)
            for group in range(file.num_row_groups):
                some = file.read_row_group(group, columns=["id", "embedding"]).combine_chunks()
                rows = some["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                vectors[len(ids) : len(ids) + len(some)] = rows.reshape(-1, d)
                ids += some["id"].to_pylist()
        for row, name in json.loads(metadata.get(_ODD.encode(), b"{}")).items():
            ids[int(row)] = name
        return _texts(ids), vectors, json.loads(metadata[KEY.encode()])


class _ParquetWriter:
    def __init__(self, rows: BinaryIO, facts: Facts, dtype: Dtype) -> None:
        self._file, self._facts, self._dtype = rows, facts, dtype
        self._writer: Any = None
        self._count = 0  # of rows in the file
        self._odd: dict[int, str] = {}
        self._ids: list[str] = []  # of rows that wait until they are a group
        self._rows: list[Rows] = []

    def put(self, ids: Sequence[str], rows: Rows) -> None:
        self._ids += ids
        self._rows.append(rows)
        if len(self._ids) >= _GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow
        from pyarrow import parquet

        ids, rows = self._ids, np.concatenate(self._rows)
        self._ids, self._rows = [], []
        if self._writer is None:
            numbers = pyarrow.float32() if self._dtype == "float32" else pyarrow.float16()
            # That nothing is missing is said to Parquet, which then reads and writes three times as fast.
            vector = pyarrow.list_(pyarrow.field("element", numbers, nullable=False), rows.shape[1])
            columns = ("id", pyarrow.string()), ("embedding", vector)
            schema = pyarrow.schema(
                [pyarrow.field(*column, nullable=False) for column in columns],
                metadata={KEY: json_text(asdict(self._facts))},
            )
            self._writer = parquet.ParquetWriter(self._file, schema, compression="none", use_dictionary=False)
        texts = [one.encode("utf-8", "backslashreplace").decode() for one in ids]
        pairs = enumerate(zip(ids, texts, strict=True), self._count)
        self._odd |= {row: one for row, (one, text) in pairs if one != text}
        schema = self._writer.schema
        embedding = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(rows.reshape(-1)), type=schema.field("embedding").type
        )
        self._writer.write_batch(pyarrow.record_batch([pyarrow.array(texts), embedding], schema=schema))
        self._count += len(ids)

    def close(self) -> None:
        if self._ids:
            self._write()
        if self._odd:
            self._writer.add_key_value_metadata({_ODD: json.dumps(self._odd)})
        self._writer.close()


class _Parts:
    """Tables of records with a column of embeddings, in a folder. They are written by `clipzs.columns`."""

    def read(self, path: Path) -> tuple[Sequence[str], Rows, Mapping[str, Any]]:
        from clipzs.batch import done

        found, said = Collected(), ""
        for name, file in done.parts(str(path)):
            facts = columns.metadata(file).get(KEY) if name.endswith(".parquet") else None
            if facts is None:
                raise EmbeddingsError(f"{name}: no embeddings in it", hint="clipzs batch --embeddings keeps them")
            if said not in ("", facts):
                raise EmbeddingsError(f"{name}: made otherwise than the parts before it")
            said = facts
            for ids, vectors in columns.embeddings(file):
                found.put(ids, vectors)
        if not said:
            raise EmbeddingsError(f"{path}: no part is there yet")
        return found.ids, found.vectors, json.loads(said)


_FORMATS: dict[str, _Format] = {".npy": _Npy(), ".safetensors": _Safetensors(), ".parquet": _Parquet()}
SUFFIXES = tuple(_FORMATS)


def _texts(found: Any) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("its ids are no texts")
    return found
