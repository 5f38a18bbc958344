"""The classes to choose among: from options or a labels file, checked."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipzs import yamlfile
from clipzs.errors import LabelsError

_KEYS = ("name", "aliases", "prompts", "group")
_SUFFIXES = (".txt", ".csv", ".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Label:
    """One class.

    `aliases` are other words for it: their prompts join its average. `prompts` replace the
    templates for this label (a `<>` in them is filled with the name). `group` names a coarser class.
    """

    name: str
    aliases: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    group: str | None = None


def split_commas(text: str) -> list[str]:
    """Labels of a comma-separated text; CSV quotes keep a comma inside a label.

    >>> split_commas('"salt, pepper", sugar')
    ['salt, pepper', 'sugar']

    Raises:
        LabelsError: an opening quote without its end.
    """
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise LabelsError(
            f"labels {text!r}: {error}", hint="quote like CSV: --labels '\"salt, pepper\",sugar'"
        ) from error
    return [cell.strip() for row in rows for cell in row]


def from_names(names: Iterable[str]) -> list[Label]:
    """Plain labels without aliases."""
    return [Label(name.strip()) for name in names]


def read(path: Path) -> list[Label]:
    """Labels of a .txt, .csv, .json, .yaml or .yml file.

    Raises:
        LabelsError: with file and line: unreadable, malformed, or of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise LabelsError(f"{path}: a labels file ends in {', '.join(_SUFFIXES)}", hint="rename it to what it is")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path}: not UTF-8 text", hint="save it as UTF-8") from error
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from error
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
    lines = (line.strip() for line in text.splitlines())
    return from_names(line for line in lines if line and not line.startswith("#"))


def _from_csv(text: str, path: Path) -> list[Label]:
    """Cells are labels, unless the first row is a header with a `label` (or `name`) column."""
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), strict=True) if any(row)]
    except csv.Error as error:
        raise LabelsError(f"{path}: not valid CSV: {error}") from error
    header = [cell.lower() for cell in rows[0]] if rows else []
    column = next((name for name in ("label", "name") if name in header), None)
    if column is None:
        return from_names(cell for row in rows for cell in row if cell)
    unknown = set(header) - {column, "group"}
    if unknown:
        raise LabelsError(
            f"{path}:1: unknown column {sorted(unknown)[0]!r}", hint="columns are label and group; aliases need YAML"
        )
    labels = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > len(header):
            raise LabelsError(f"{path}:{number}: more cells than the header has", hint="quote labels that hold commas")
        cells = dict(zip(header, row, strict=False))
        labels.append(Label(cells.get(column, ""), group=cells.get("group") or None))
    return labels


def _json(text: str, path: Path) -> yamlfile.Document:
    try:
        return yamlfile.Document(json.loads(text), {})
    except json.JSONDecodeError as error:
        raise LabelsError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise LabelsError(f"{path}: not valid JSON: nested too deeply") from error


def _yaml(text: str, path: Path) -> yamlfile.Document:
    try:
        return yamlfile.parse(text)
    except yamlfile.YamlProblem as problem:
        raise LabelsError(f"{path}:{problem.line}: {problem}") from problem


def _from_document(document: yamlfile.Document, path: Path) -> list[Label]:
    """A list of labels, a mapping of name to details, or either under the key `labels`."""
    data, at = document.value, ()
    if isinstance(data, dict):
        if set(data) != {"labels"}:
            key = next((key for key in data if key != "labels"), None)
            raise LabelsError(
                f"{path}:{document.line(key) if key else 1}: " + (f"unknown key {key!r}" if key else "no labels in it"),
                hint="the file is a list of labels, or has the one key `labels`",
            )
        data, at = data["labels"], ("labels",)

    def problem(message: str, *where: str | int) -> LabelsError:
        line = document.line(*at, *where)
        return LabelsError(f"{path}:{line}: {message}", hint="a label is text, or has: " + ", ".join(_KEYS))

    if isinstance(data, dict):
        return [_label(name, value, problem, (name,)) for name, value in data.items()]
    if not isinstance(data, list):
        raise problem("labels must be a list")
    labels = []
    for number, item in enumerate(data):
        if isinstance(item, str):
            labels.append(Label(item.strip()))
        elif isinstance(item, dict):
            labels.append(_label(item.get("name"), {k: v for k, v in item.items() if k != "name"}, problem, (number,)))
        else:
            raise problem(f"a label must be text, not {item!r}", number)
    return labels


def _label(name: Any, details: Any, problem: Any, where: tuple[str | int, ...]) -> Label:
    """`details`: a mapping of aliases, prompts and group; or just the prompts, one or a list; or nothing."""
    if not isinstance(name, str):
        raise problem("a label needs a `name`", *where)
    if not isinstance(details, dict):
        details = {"prompts": details}
    for key in details:
        if key not in _KEYS[1:]:
            raise problem(f"unknown key {key!r}", *where, key)
    group = details.get("group")
    if group is not None and (not isinstance(group, str) or not group.strip()):
        raise problem("`group` must be text", *where, "group")
    return Label(
        name.strip(),
        aliases=_texts(details, "aliases", problem, where),
        prompts=_texts(details, "prompts", problem, where),
        group=group.strip() if group else None,
    )


def _texts(details: dict[str, Any], key: str, problem: Any, where: tuple[str | int, ...]) -> tuple[str, ...]:
    value = details.get(key)
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
        raise problem(f"`{key}` must be text or a list of texts", *where, key)
    return tuple(item.strip() for item in items)


def checked(labels: Sequence[Label], *, least: int = 2) -> tuple[Label, ...]:
    """The labels, if they can be chosen among.

    Args:
        labels: in the order they were given.
        least: how many there must be: two where scores are shared among them.

    Raises:
        LabelsError: none, too few, an empty one, or one that occurs twice.
    """
    if not labels:
        raise LabelsError("no labels given", hint="name at least two: --labels cat,dog or --labels-file FILE")
    names = [label.name for label in labels]
    if not all(names):
        raise LabelsError(
            f"label {names.index('') + 1} of {len(names)} is empty", hint="look for two commas in a row in --labels"
        )
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise LabelsError(
            f"given twice: {', '.join(twice)}", hint="name each label once; other words for it are `aliases` in YAML"
        )
    if len(labels) < least:
        raise LabelsError(
            f"only one label given: {names[0]}",
            hint=f"a softmax over one class is always 1: add what else it could be (--labels {names[0]},other), "
            "or ask for the raw similarity with --score cosine",
        )
    return tuple(labels)
