"""YAML text into plain Python values, with the line of every value kept for messages.

All scalars stay strings: a label `no` or `1` is a label, not a bool or a number. Nothing in a file is executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

# The C loader is about ten times faster; both are the "base" loader, which builds strings, lists and dicts only.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

Path = tuple[str | int, ...]


class YamlProblem(Exception):
    """What is wrong and on which line (1-based), for the caller to put a file name to."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Document:
    """Values of a YAML text, and the line where each begins, by path from the root."""

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
        YamlProblem: not YAML, a key that occurs twice, or an anchor used again (a file of a few
            lines could unfold to billions of values).
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlProblem(f"not valid YAML: {error.problem or error.context}", mark.line + 1 if mark else 1) from error
    except yaml.YAMLError as error:  # an unprintable character, for one
        raise YamlProblem(f"not valid YAML: {' '.join(str(error).split())}", 1) from error
    lines: dict[Path, int] = {}
    value = None if root is None else _value(root, (), lines, set())
    return Document(value, lines)


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    lines[path] = line
    if id(node) in seen:
        raise YamlProblem("anchors and aliases (& and *) are not supported", line)
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, number), lines, seen) for number, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, key_line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlProblem("a key must be plain text", key_line)
            if key in mapping:
                raise YamlProblem(f"the key {key!r} occurs twice", key_line)
            mapping[key] = _value(value_node, (*path, key), lines, seen)
        return mapping
    if node.value == "" and node.style is None:
        return None  # `aliases:` with nothing behind it
    return node.value
