"""Labels files: .txt, .csv, .json and .yaml into labels, with file and line for whatever is wrong in them."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clipzs import yamlfile
from clipzs.errors import LabelsError
from clipzs.labels import Label, from_names
from clipzs.textfiles import read_text

_KEYS = ("name", "aliases", "prompts", "group")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_LABEL_HINT = "a label is text, or has: " + ", ".join(_KEYS)
_SUFFIXES = (".txt", ".csv", ".json", ".yaml", ".yml")


def read(path: Path) -> list[Label]:
    """Labels of a .txt, .csv, .json, .yaml or .yml file.

    Raises:
        LabelsError: with file and line: unreadable, malformed, or of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise LabelsError(f"{path}: a labels file ends in {', '.join(_SUFFIXES)}", hint="rename it to what it is")
    text = read_text(path, LabelsError)
    if suffix == ".txt":
        labels = _from_lines(text)
    elif suffix == ".csv":
        labels = _from_csv(text, path)
    else:
        labels = _from_document(_json(text, path) if suffix == ".json" else _yaml(text, path), path)
    if not labels:
        raise LabelsError(f"{path}: no labels in it")
    return labels


def _from_lines(text: str) -> list[Label]:
    lines = (line.strip() for line in re.split(r"\r\n|\n|\r", text))
    return from_names(line for line in lines if line and not line.startswith("#"))


def _from_csv(text: str, path: Path) -> list[Label]:
    """Cells are labels, unless the first row is a header with a `label` (or `name`) column."""
    rows = _csv_rows(text, path)
    first, header = (rows[0][0], [cell.lower() for cell in rows[0][1]]) if rows else (1, [])
    column = next((name for name in ("label", "name") if name in header), None)
    if column is None:
        return from_names(cell for _, row in rows for cell in row if cell)
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
        labels.append(Label(cells[column], group=cells.get("group") or None))
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


def _from_document(document: yamlfile.Document, path: Path) -> list[Label]:
    """A list of labels, a mapping of name to details, or either under the key `labels`."""

    def problem(message: str, *where: str | int, hint: str = _LABEL_HINT) -> LabelsError:
        return LabelsError(f"{path}:{document.line(*where)}: {message}", hint=hint)

    data = document.value
    at: yamlfile.Path = ()
    if isinstance(data, dict) and data:
        unknown = next((key for key in data if key != "labels"), None)
        if unknown is not None:
            raise problem(
                f"unknown key {unknown!r}",
                unknown,
                hint="the file is a list of labels, or has the one key `labels`",
            )
        data, at = data["labels"], ("labels",)
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


def _label(name: Any, details: Any, problem: Callable[..., LabelsError], where: yamlfile.Path) -> Label:
    """`details`: a mapping of aliases, prompts and group; or just the prompts, one or a list; or nothing."""
    if not isinstance(details, dict):
        details = {"prompts": details}
    for key in details:
        if key not in _KEYS[1:]:
            raise problem(f"unknown key {key!r}", *where, key)
    if not isinstance(name, str):
        raise problem("a label needs a `name`", *where)
    if not name.strip():
        raise problem("a label is empty", *where)
    group = details.get("group")
    if group is not None and (not isinstance(group, str) or not group.strip()):
        raise problem("`group` must be text", *where, "group")
    return Label(
        name.strip(),
        aliases=_texts(details, "aliases", problem, where),
        prompts=_texts(details, "prompts", problem, where),
        group=group.strip() if group else None,
    )


def _texts(
    details: dict[str, Any], key: str, problem: Callable[..., LabelsError], where: yamlfile.Path
) -> tuple[str, ...]:
    value = details.get(key)
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
        raise problem(f"`{key}` must be text or a list of texts", *where, key)
    return tuple(item.strip() for item in items)
