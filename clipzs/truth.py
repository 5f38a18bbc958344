"""Which label is right for which image: a folder for each class, or a file that says so."""

import csv
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipzs import yamlfile
from clipzs.errors import TruthError, listed
from clipzs.formulas import original
from clipzs.paths import Selection
from clipzs.textfiles import read_text

log = logging.getLogger("clipzs")

COLUMNS = ("path", "label")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Truth:
    """Labelled images.

    Attributes:
        paths: of n images.
        answers: for each, the index of its class.
        classes: names of the c classes, each with at least one image.
    """

    paths: tuple[str, ...]
    answers: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def support(self) -> tuple[int, ...]:
        """How many images each class has."""
        counts = [0] * len(self.classes)
        for answer in self.answers:
            counts[answer] += 1
        return tuple(counts)


def from_folder(folder: Path, *, exclude: Sequence[str] = ()) -> Truth:
    """A folder with a folder of images for each class. Underscores in their names stand for spaces.

    Args:
        folder: is searched as `paths.Selection` searches.
        exclude: globs of what to leave out.

    Raises:
        TruthError: no such folder, no class folders, fewer than two classes with images, or two folders of one class.
    """
    if not folder.is_dir():
        raise TruthError(f"{folder}: no such folder", hint="name a folder that holds a folder of images for each class")
    try:
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise TruthError(f"{folder}: cannot look into this folder: {error.strerror}") from error
    found: dict[str, list[str]] = {}
    for name in inside:
        label = name.replace("_", " ").strip()
        if label in found:
            raise TruthError(f"{folder}: two folders of the class {label!r}", hint="join them, or name them apart")
        images = list(Selection([str(folder / name)], exclude=exclude).find())
        for image in images:
            if image.error is not None:
                log.warning("%s: %s", image.path, image.error)
        found[label] = [image.path for image in images if image.error is None]
    empty = [label for label, images in found.items() if not images]
    if empty:
        log.warning("%s: no images of %s: left out", folder, listed(empty))
    return _truth(
        [(path, label) for label, images in found.items() for path in images],
        where=str(folder),
        hint="it must hold a folder of images for each class, or say which is which with --truth FILE",
    )


def from_file(file: Path, *, there: bool = True) -> Truth:
    """A .csv, .tsv or .jsonl file with `path` and `label`; relative paths start from the file's folder.

    Args:
        file: is read whole.
        there: see that the images exist.

    Raises:
        TruthError: with file and line: unreadable, malformed, an image with two labels, fewer than two classes, or
            no image that exists.
    """
    suffix = file.suffix.lower()
    if suffix not in (*_SEPARATORS, ".jsonl"):
        raise TruthError(f"{file}: a truth file ends in .csv, .tsv or .jsonl", hint="rename it to what it is")
    text = read_text(file, TruthError)
    rows = _json_rows(text, file) if suffix == ".jsonl" else _cell_rows(text, file, _SEPARATORS[suffix])
    labels: dict[str, str] = {}
    for line, path, label in rows:
        for name, value in (("path", path), ("label", label)):
            if not isinstance(value, str) or not value.strip():
                raise TruthError(f"{file}:{line}: no {name} in this row", hint=_hint())
        whole = path if "://" in path else os.path.join(file.parent, path)
        if labels.setdefault(whole, label.strip()) != label.strip():
            raise TruthError(f"{file}:{line}: {path} has two labels: {labels[whole]!r} and {label.strip()!r}")
    missing = [path for path in labels if not os.path.exists(path)] if there else []
    if missing and len(missing) == len(labels):
        raise TruthError(
            f"{file}: none of its {len(labels):,} images exists, e.g. {missing[0]}",
            hint="relative paths start from the folder of the file",
        )
    if missing:
        log.warning(
            "%s: %s of %s images do not exist: %s", file, f"{len(missing):,}", f"{len(labels):,}", listed(missing)
        )
    return _truth([*labels.items()], where=str(file), hint=_hint())


def renamed(truth: Truth, file: Path) -> Truth:
    """With other names for its classes, and some of them joined.

    Args:
        truth: labelled images.
        file: .yaml, .json (a mapping) or .csv (two columns): class, label to use for it. What it does not name stays.

    Raises:
        TruthError: with file and line: unreadable, malformed, or a class that there is not.
    """
    names = _mapping(file)
    strange = next((name for name in names if name not in truth.classes), None)
    if strange is not None:
        raise TruthError(f"{file}: no class is called {strange!r}", hint=f"there are: {listed(truth.classes)}")
    labels = [names.get(name, name) for name in truth.classes]
    return _truth(
        [(path, labels[answer]) for path, answer in zip(truth.paths, truth.answers, strict=True)],
        where=str(file),
        hint="it must not join all classes",
    )


def _truth(pairs: Sequence[tuple[str, str]], *, where: str, hint: str) -> Truth:
    classes = tuple(dict.fromkeys(label for _, label in pairs))
    if not classes:
        raise TruthError(f"{where}: no labelled images", hint=hint)
    if len(classes) == 1:
        raise TruthError(f"{where}: all images are of one class, {classes[0]!r}", hint=hint)
    number = {label: index for index, label in enumerate(classes)}
    return Truth(tuple(path for path, _ in pairs), tuple(number[label] for _, label in pairs), classes)


def _cell_rows(text: str, file: Path, separator: str) -> Iterator[tuple[int, Any, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    places: tuple[int, int] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if places is None:
                header = [cell.strip().lower() for cell in row]
                if not set(COLUMNS) <= set(header):
                    raise TruthError(f"{file}:{reader.line_num}: no columns `path` and `label`", hint=_hint())
                places = header.index("path"), header.index("label")
                continue
            path, label = (row[place] if place < len(row) else None for place in places)
            yield reader.line_num, original(path or ""), original(label or "")
    except csv.Error as error:
        raise TruthError(f"{file}:{reader.line_num}: not valid CSV: {error}", hint=_hint()) from error


def _json_rows(text: str, file: Path) -> Iterator[tuple[int, Any, Any]]:
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            record = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise TruthError(f"{file}:{line}: not valid JSON: {error}", hint=_hint()) from error
        if not isinstance(record, dict):
            raise TruthError(f"{file}:{line}: not an object", hint=_hint())
        yield line, record.get("path"), record.get("label")


def _mapping(file: Path) -> Mapping[str, str]:
    suffix = file.suffix.lower()
    if suffix not in (".yaml", ".yml", ".json", ".csv"):
        raise TruthError(f"{file}: a map file ends in .yaml, .json or .csv", hint="rename it to what it is")
    text = read_text(file, TruthError)
    if suffix == ".csv":
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True) if row]
        wrong = next((row for row in rows if len(row) != 2), None)
        if wrong is not None:
            raise TruthError(
                f"{file}: a row has two cells, not {len(wrong)}: {','.join(wrong)[:60]}", hint="class,label"
            )
        pairs: Mapping[Any, Any] = dict(rows)
    else:
        try:
            pairs = yamlfile.parse(text).value  # which JSON is, too
        except yamlfile.YamlProblem as problem:
            raise TruthError(f"{file}:{problem.line}: {problem}") from problem
    if not isinstance(pairs, dict) or not all(
        isinstance(text, str) and text.strip() for pair in pairs.items() for text in pair
    ):
        raise TruthError(f"{file}: not a mapping of text to text", hint="write a line for each class: `class: label`")
    return {name.strip(): label.strip() for name, label in pairs.items()}


def _hint() -> str:
    return "each row has `path` and `label`: a CSV with such a header, or JSON Lines with such keys"
