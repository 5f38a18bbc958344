"""Labels files: .txt, .csv, .json and .yaml into labels, with file and line for whatever is wrong in them.

So are the labels of images: .jsonl, and .csv with a column `path`.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipzs import records, yamlfile
from clipzs.errors import LabelsError, RecordsError
from clipzs.labels import WEIGHT_RANGE, Label, Tuned, as_it_is, from_names, is_weight, levels
from clipzs.textfiles import read_text

_KEYS = ("name", "aliases", "prompts", "group", "threshold", "weights")
_TUNED_KEYS = ("model", "digest", "logit_scale", "clipzs", "templates", "evidence")  # what follows is for people
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_LABEL_HINT = "a label is text, or has: " + ", ".join(_KEYS)
_GROUP_HINT = "write animal, animal > dog, or in YAML and JSON [animal, dog]"
_SUFFIXES = (".txt", ".csv", ".json", ".jsonl", ".yaml", ".yml")


def read(path: Path) -> list[Label]:
    """Labels of a .txt, .csv, .json, .jsonl, .yaml or .yml file.

    Raises:
        LabelsError: with file and line: unreadable, malformed, or of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise LabelsError(f"{path}: a labels file ends in {', '.join(_SUFFIXES)}", hint="rename it to what it is")
    text = read_text(path, LabelsError)
    if suffix == ".txt":
        labels = _from_lines(text, path)
    elif suffix == ".jsonl":
        labels = _of_images(path)
    elif suffix == ".csv":
        labels = _from_csv(text, path)
    else:
        labels = _from_document(_json(text, path) if suffix == ".json" else _yaml(text, path), path)
    if not labels:
        raise LabelsError(f"{path}: no labels in it")
    return labels


def _from_lines(text: str, path: Path) -> list[Label]:
    return [Label(line, place=f"{path}:{number}") for number, line in _numbered(text)]


def sentences(text: str, name: str) -> list[Label]:
    """The lines of a text that say something, each a label that the model reads as it is.

    Args:
        text: of a file; `#` begins a comment line.
        name: of that file.

    Raises:
        LabelsError: the file is of another kind by its name, or has none.
    """
    suffix = Path(name).suffix.lower()
    if suffix in _SUFFIXES and suffix != ".txt":
        raise LabelsError(f"{name}: sentences are lines of text", hint="name a .txt; labels are for `clipzs classify`")
    found = [as_it_is(line, place=f"{name}:{number}") for number, line in _numbered(text)]
    if not found:
        raise LabelsError(f"{name}: no sentences in it")
    return found


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Lines that say something, without space around, and their numbers; not those that are blank or begin with `#`."""
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        said = line.strip()
        if said and not said.startswith("#"):
            yield number, said


def _of_images(path: Path) -> list[Label]:
    """Each label once, of a file that says which image has which: results, or the corrections of a report."""
    try:
        found = [result.label.strip() for result in records.read(path) if result.label is not None]
    except RecordsError as error:
        raise LabelsError(str(error), hint=error.hint) from error
    return from_names(dict.fromkeys(found))


def _from_csv(text: str, path: Path) -> list[Label]:
    """Cells are labels, unless the first row is a header with a `label` (or `name`) column, or one of images."""
    rows = _csv_rows(text, path)
    first, header = (rows[0][0], [cell.lower() for cell in rows[0][1]]) if rows else (1, [])
    column = next((name for name in ("label", "name") if name in header), None)
    if column is None:
        return [Label(cell, place=f"{path}:{line}") for line, row in rows for cell in row if cell]
    if column == "label" and "path" in header:
        return _of_images(path)
    unknown = [name for name in header if name not in (column, "group")]
    if unknown:
        raise LabelsError(
            f"{path}:{first}: unknown column {unknown[0]!r}", hint="columns are label and group; aliases need YAML"
        )
    if len(set(header)) < len(header):
        raise LabelsError(f"{path}:{first}: a column occurs twice", hint="columns are label and group")
    labels = []
    for line, row in rows[1:]:
        if len(row) > len(header):
            raise LabelsError(f"{path}:{line}: more cells than the header has", hint="quote labels that hold commas")
        cells = dict(zip(header, row, strict=False))
        if not cells.get(column):
            raise LabelsError(f"{path}:{line}: no label in this row")
        try:
            groups = levels(cells.get("group") or None)
        except ValueError as problem:
            raise LabelsError(f"{path}:{line}: {problem}", hint=_GROUP_HINT) from problem
        labels.append(Label(cells[column], groups=groups, place=f"{path}:{line}"))
    return labels


def _csv_rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line where it ends."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise LabelsError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error
    return rows


def _json(text: str, path: Path) -> yamlfile.Document:
    """JSON values, and their lines: those of the same text read as YAML, which it is but for tabs and rare escapes."""
    where = str(path)
    lines: Mapping[yamlfile.Path, int] = {}
    try:
        lines = yamlfile.parse(_SURROGATE_ESCAPE.sub(r"\\ufffd", text.replace("\t", " "))).lines
    except yamlfile.YamlProblem as problem:
        where = f"{path}:{problem.line}"
    try:
        return yamlfile.Document(json.loads(text, object_pairs_hook=_object), lines)
    except json.JSONDecodeError as error:
        raise LabelsError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a key that occurs twice, a number too long to read, deep nesting
        raise LabelsError(f"{where}: not valid JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None) if len(set(keys)) < len(keys) else None
    if twice is not None:
        raise ValueError(f"the key {twice!r} occurs twice")
    return dict(pairs)


def _yaml(text: str, path: Path) -> yamlfile.Document:
    try:
        return yamlfile.parse(text)
    except yamlfile.YamlProblem as problem:
        raise LabelsError(f"{path}:{problem.line}: {problem}") from problem


class _Problem:
    """Makes errors of what is wrong at a place in a document."""

    def __init__(self, document: yamlfile.Document, path: Path) -> None:
        self._document = document
        self._path = path

    def __call__(self, message: str, *where: str | int, hint: str = _LABEL_HINT) -> LabelsError:
        return LabelsError(f"{self.place(*where)}: {message}", hint=hint)

    def place(self, *where: str | int) -> str:
        """File and line."""
        return f"{self._path}:{self._document.line(*where)}"


def _from_document(document: yamlfile.Document, path: Path) -> list[Label]:
    """A list of labels, a mapping of name to details, or either under the key `labels`."""

    problem = _Problem(document, path)
    data = document.value
    at: yamlfile.Path = ()
    if isinstance(data, dict) and data:
        unknown = next((key for key in data if key not in ("labels", "tuned")), None)
        if unknown is not None:
            raise problem(
                f"unknown key {unknown!r}",
                unknown,
                hint="the file is a list of labels, or has the one key `labels`",
            )
        if "tuned" in data:
            labels = _from_values(data.get("labels"), problem, ("labels",))
            tuned = _tuned(data["tuned"], len(labels), problem)
            return [replace(label, tuned=tuned) for label in labels]
        data, at = data["labels"], ("labels",)
    return _from_values(data, problem, at)


def _from_values(data: Any, problem: _Problem, at: yamlfile.Path) -> list[Label]:
    if not data and not isinstance(data, (bool, int, float)):
        return []
    if isinstance(data, dict):
        return [_label(name, value, problem, (*at, name)) for name, value in data.items()]
    if not isinstance(data, list):
        raise problem("labels must be a list", *at)
    labels = []
    for number, item in enumerate(data):
        where: yamlfile.Path = (*at, number)
        if isinstance(item, dict):
            details = {key: value for key, value in item.items() if key != "name"}
            labels.append(_label(item.get("name"), details, problem, where))
        elif isinstance(item, str):
            labels.append(_label(item, None, problem, where))
        else:
            found = "an empty item" if item is None else json.dumps(item)
            raise problem(f"a label must be text, not {found}", *where)
    return labels


def _label(name: Any, details: Any, problem: _Problem, where: yamlfile.Path) -> Label:
    """`details`: a mapping of all but the name; or just the prompts, one or a list; or nothing."""
    if not isinstance(details, dict):
        details = {"prompts": details}
    for key in details:
        if key not in _KEYS[1:]:
            raise problem(f"unknown key {key!r}", *where, key)
    if not isinstance(name, str):
        raise problem("a label needs a `name`", *where)
    if not name.strip():
        raise problem("a label is empty", *where)
    try:
        groups = levels(details.get("group"))
    except ValueError as wrong:
        raise problem(str(wrong), *where, "group", hint=_GROUP_HINT) from wrong
    return Label(
        name.strip(),
        aliases=_texts(details, "aliases", problem, where),
        prompts=_texts(details, "prompts", problem, where),
        groups=groups,
        threshold=_number(details, "threshold", problem, where),
        weights=_weights(details, problem, where),
        place=problem.place(*where),
    )


def _weights(details: dict[str, Any], problem: _Problem, where: yamlfile.Path) -> tuple[float, ...]:
    value = details.get("weights")
    if value is None:
        return ()
    weights = [_parsed(one) for one in value] if isinstance(value, list) else []
    found = [weight for weight in weights if weight is not None and is_weight(weight)]
    prompts = details.get("prompts")
    wanted = len(prompts) if isinstance(prompts, list) else 0
    if not len(found) == len(weights) == wanted:
        raise problem(
            f"`weights` must be a list of numbers {WEIGHT_RANGE}, one for each of the `prompts`", *where, "weights"
        )
    return tuple(found)


def _tuned(value: Any, labels: int, problem: _Problem) -> Tuned:
    hint = "`tuned` is written by `clipzs tune`; leave it out to use these labels with any model"
    if not isinstance(value, dict):
        raise problem("`tuned` must be a mapping", "tuned", hint=hint)
    unknown = next((key for key in value if key not in _TUNED_KEYS), None)
    if unknown is not None:
        raise problem(f"unknown key {unknown!r}", "tuned", unknown, hint=hint)
    for key in ("model", "digest"):
        if not isinstance(value.get(key), str):
            raise problem(f"`tuned` needs a `{key}`", "tuned", key, hint=hint)
    scale = None if value.get("logit_scale") is None else _parsed(value["logit_scale"])
    if value.get("logit_scale") is not None and not (scale and scale > 0):
        raise problem("`logit_scale` must be a number above 0", "tuned", "logit_scale", hint=hint)
    return Tuned(value["model"], value["digest"], labels, scale)


def _parsed(value: Any) -> float | None:
    """A finite number of a JSON file, or of a YAML file, where it is still text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _number(details: dict[str, Any], key: str, problem: _Problem, where: yamlfile.Path) -> float | None:
    value = details.get(key)
    number = _parsed(value)
    if value is not None and (number is None or not -1 <= number <= 1):
        raise problem(f"`{key}` must be a number from 0 to 1 (from -1 for cosines)", *where, key)
    return number


def _texts(details: dict[str, Any], key: str, problem: _Problem, where: yamlfile.Path) -> tuple[str, ...]:
    value = details.get(key)
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
        raise problem(f"`{key}` must be text or a list of texts", *where, key)
    return tuple(item.strip() for item in items)
