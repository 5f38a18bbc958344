"""Keywords of images: which ones an answer stands for."""

from dataclasses import dataclass

from clipzs.exports.common import Settings, above, answers, xml_text
from clipzs.results import Result

PARTS_LEVELS = "|"  # in hierarchical keywords; in a name a slash stands for it


@dataclass(frozen=True)
class Keywords:
    """What is said of one image.

    Attributes:
        flat: groups and labels, each by itself.
        hierarchical: labels that are in groups, coarse first: "animal|dog".
    """

    flat: tuple[str, ...] = ()
    hierarchical: tuple[str, ...] = ()

    def __add__(self, other: "Keywords") -> "Keywords":
        """Those of both, each once."""
        return Keywords(_once(*self.flat, *other.flat), _once(*self.hierarchical, *other.hierarchical))


def keywords(result: Result, settings: Settings) -> Keywords:
    """Those of a result's answers; none where there is no answer. They hold nothing that XML could not."""
    found = Keywords()
    for label, _ in answers(result, settings):
        names = [_keyword(name) for name in (*above(result, label), label)]
        path = PARTS_LEVELS.join(name.replace(PARTS_LEVELS, "/") for name in names)
        found += Keywords(tuple(names), (path,) if len(names) > 1 else ())
    return found


def _keyword(name: str) -> str:
    """White space in single spaces: catalogues take a line's end for the end of a keyword."""
    return " ".join(xml_text(name).split())


def _once(*names: str) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name)
