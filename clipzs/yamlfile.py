"""YAML text into plain Python values, with the line of every value kept for messages.

All scalars stay strings: a label `no` or `1` is a label, not a bool or a number. Nothing in a file is executed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

# The C loader is about ten times faster; both are the "base" loader, which builds strings, lists and dicts only.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_FRAME = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
_DEEPEST = 20  # levels; a labels file has four

Path = tuple[str | int, ...]


class YamlProblem(Exception):
    """What is wrong and on which line (1-based), for the caller to put a file name to."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Document:
    """Values of a YAML text, and the line where each (or its key) begins, by path from the root."""

    value: Any
    lines: Mapping[Path, int]

    def line(self, *path: str | int) -> int:
        """Line of the value at `path`, or of its nearest known ancestor."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(text: str) -> Document:
    """Read one YAML document.

    Raises:
        YamlProblem: not YAML, more than one document, nested too deeply, a key that occurs twice, or
            an alias of an anchor (a file of a few lines could unfold to billions of values).
    """
    lines: dict[Path, int] = {}
    try:
        # Events, not `yaml.compose`: that recurses in C, and some thousand brackets crash the interpreter.
        events = (event for event in yaml.parse(text, Loader=_Loader) if not isinstance(event, _FRAME))
        first = next(events, None)
        value = None if first is None else _value(first, events, (), lines)
        for event in events:
            raise YamlProblem("more than one YAML document in the file", _line(event))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = text.count("\n", 0, -1) + 1  # the end of the text is reported as a line of its own
        line = min(mark.line + 1, last) if mark else 1
        raise YamlProblem(f"not valid YAML: {error.problem or error.context}", line) from error
    except yaml.reader.ReaderError as error:
        line = text.encode("utf-8", "replace")[: error.position].count(b"\n") + 1
        raise YamlProblem("not valid YAML: a control character", line) from error
    except UnicodeEncodeError as error:  # a lone surrogate
        raise YamlProblem("not valid YAML: not Unicode text", text[: error.start].count("\n") + 1) from error
    return Document(value, lines)


def _value(event: yaml.Event, events: Iterator[yaml.Event], path: Path, lines: dict[Path, int]) -> Any:
    """The value that begins with `event`; takes the events up to its end."""
    line = _line(event)
    lines[path] = line
    if len(path) > _DEEPEST:
        raise YamlProblem("nested too deeply", line)
    if isinstance(event, yaml.AliasEvent):
        raise YamlProblem("anchors and aliases (& and *) are not supported", line)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, (*path, len(items)), lines))
        return items
    if isinstance(event, yaml.MappingStartEvent):
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key_line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise YamlProblem("a key must be plain text", key_line)
            key = event.value
            if key in mapping:
                raise YamlProblem(f"the key {key!r} occurs twice", key_line)
            mapping[key] = _value(next(events), events, (*path, key), lines)
            lines[(*path, key)] = key_line
        return mapping
    assert isinstance(event, yaml.ScalarEvent)  # noqa: S101  # the only kind left
    if event.value == "" and not event.style:
        return None  # `aliases:` with nothing behind it
    return event.value


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
