"""Prompt-template sets: found by name or file, checked, and filled with a label."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from clipzs import defaults, yamlfile
from clipzs.errors import TemplatesError
from clipzs.textfiles import read_text

PLACEHOLDER = defaults.PLACEHOLDERS[0]
_PLACEHOLDERS = re.compile("|".join(map(re.escape, defaults.PLACEHOLDERS)))
_STOPS = {".": ", ", "。": "，", "।": ", "}  # full stop → comma, as the script of the template writes it
_KEYS = ("name", "description", "source", "context", "templates")


@dataclass(frozen=True)
class TemplateSet:
    """One named set: `templates` hold the placeholder `<>` once each, context already appended."""

    name: str
    templates: tuple[str, ...]
    description: str = ""
    source: str = ""
    context: str = ""
    path: Path | None = None


def normalise(template: str) -> str:
    """The template with `<>` as its placeholder; `{}` and `{c}` are understood too.

    Raises:
        ValueError: no placeholder, or more than one.
    """
    found = _PLACEHOLDERS.findall(template)
    if len(found) != 1:
        problem = "has no placeholder" if not found else f"has {len(found)} placeholders"
        raise ValueError(f"template {template!r} {problem}: write {PLACEHOLDER} once, where the label goes")
    return _PLACEHOLDERS.sub(PLACEHOLDER, template, count=1)


def fill(template: str, label: str) -> str:
    """Put the label in the place of `<>`: plain replacement, so braces in a label mean nothing."""
    return template.replace(PLACEHOLDER, label)


def with_context(template: str, context: str) -> str:
    """Append a context such as "a type of flower", before a final full stop.

    Source: arXiv:2103.00020, "Prompt engineering and ensembling".

    >>> with_context("a photo of a <>.", "a type of flower")
    'a photo of a <>, a type of flower.'
    """
    if not context:
        return template
    for stop, comma in _STOPS.items():
        if template.endswith(stop):
            return f"{template.removesuffix(stop)}{comma}{context}{stop}"
    return f"{template}, {context}"


@cache
def shipped_dir() -> Path:
    """Where the sets that come with clipzs lie: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).parent
    inside = package / "_prompts"
    return inside if inside.is_dir() else package.parent / "prompts"


def known_sets(user_dir: Path | None = None) -> dict[str, Path]:
    """Name → file of every set that can be named; the user's own folder wins over the shipped one."""
    folders = (shipped_dir(), user_dir or defaults.prompts_dir())
    return {
        path.stem: path
        for folder in folders
        if folder.is_dir()
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    }


def find(name_or_file: str, user_dir: Path | None = None) -> TemplateSet:
    """Load a set by its name, or from a file when the text looks like a path.

    Raises:
        TemplatesError: no such set or file, or the file is malformed.
    """
    sets = known_sets(user_dir)
    if name_or_file in sets:
        return read(sets[name_or_file])
    path = Path(name_or_file)
    if path.suffix.lower() in (".yaml", ".yml") or path.parent != Path():
        if not path.is_file():
            raise TemplatesError(f"no such template file: {name_or_file}", hint="see `clipzs prompts list`")
        return read(path)
    import difflib

    near = difflib.get_close_matches(name_or_file, sets, n=3)
    folder_missing = user_dir is not None and not user_dir.is_dir()
    raise TemplatesError(
        f"unknown template set {name_or_file!r}" + (f"; did you mean {', '.join(near)}?" if near else ""),
        hint=f"no such folder: {user_dir}"
        if folder_missing and not near
        else "`clipzs prompts list` shows all sets; a file of your own needs .yaml at its end",
    )


def read(path: Path) -> TemplateSet:
    """Read and check one YAML file.

    Raises:
        TemplatesError: with file and line: not YAML, an unknown key, no templates, a template
            without exactly one placeholder, or a template that occurs twice.
    """
    try:
        return _checked(yamlfile.parse(read_text(path, TemplatesError)), path)
    except yamlfile.YamlProblem as problem:
        raise TemplatesError(f"{path}:{problem.line}: {problem}", hint="a set has: " + ", ".join(_KEYS)) from problem


def _checked(document: yamlfile.Document, path: Path) -> TemplateSet:
    data = document.value
    if not isinstance(data, dict):
        raise yamlfile.YamlProblem("a template set is a mapping with the key `templates`", document.line())
    for key in data:
        if key not in _KEYS:
            raise yamlfile.YamlProblem(f"unknown key {key!r}", document.line(key))
    for key in ("name", "description", "source", "context"):
        if not isinstance(data.get(key), str | None):
            raise yamlfile.YamlProblem(f"`{key}` must be text", document.line(key))
    templates = data.get("templates")
    if not isinstance(templates, list) or not templates:
        raise yamlfile.YamlProblem("`templates` must be a list with at least one template", document.line("templates"))
    context = data.get("context") or ""
    checked: list[str] = []
    for number, template in enumerate(templates):
        line = document.line("templates", number)
        if not isinstance(template, str):
            raise yamlfile.YamlProblem("a template must be text (put it in quotes)", line)
        try:
            normal = with_context(normalise(template), context)
        except ValueError as error:
            raise yamlfile.YamlProblem(str(error), line) from error
        if normal in checked:
            raise yamlfile.YamlProblem(f"template {template!r} occurs twice", line)
        checked.append(normal)
    return TemplateSet(
        name=data.get("name") or path.stem,
        templates=tuple(checked),
        description=data.get("description") or "",
        source=data.get("source") or "",
        context=context,
        path=path,
    )


def chosen(
    sets: Sequence[str] = (),
    templates: Sequence[str] = (),
    context: str = "",
    user_dir: Path | None = None,
) -> tuple[str, ...]:
    """The templates a request means: named sets and single templates joined, each once, in order.

    Neither given: the default set. `context` is appended to every one of them.

    Raises:
        TemplatesError: an unknown or malformed set, or a template without exactly one placeholder.
    """
    loaded = [find(name, user_dir) for name in sets or (() if templates else (defaults.TEMPLATES,))]
    try:
        single = [normalise(template) for template in templates]
    except ValueError as error:
        raise TemplatesError(str(error)) from error
    joined: Iterable[str] = [*(t for each in loaded for t in each.templates), *single]
    return tuple(dict.fromkeys(with_context(template, context) for template in joined))


def all_sets(user_dir: Path | None = None) -> list[TemplateSet]:
    """Every set that can be named, in order of name, under the name it is called by."""
    return [replace(read(path), name=name) for name, path in sorted(known_sets(user_dir).items())]
