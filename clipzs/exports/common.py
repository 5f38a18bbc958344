"""What all exports share: which answers of a result count, which images are left out and why, and texts made safe."""

import errno
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from clipzs import defaults
from clipzs.errors import OutputError
from clipzs.paths import printable
from clipzs.results import Result, Score
from clipzs.writers import tsv_field

REASONS_KEPT = 20  # of images that are left out
# Of failures to write one file of many, those that the next file meets as well.
_EVERYWHERE = {errno.ENOSPC, errno.EIO, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user said; each format heeds some of it.

    Attributes:
        target: the file to write, or None where files beside or inside the images are.
        unknown: the answer that stands for none.
        min_score: an answer with less is none.
        base: the folder that names in the target are relative to.
        url_prefix: what comes before such a name to make a URL of it.
        from_name: of the control tag of a labelling configuration.
        to_name: of its object tag.
        label_config: where the definition of the labels goes; None is standard output.
        sidecar_name: "file" for photo.jpg.xmp, "adobe" for photo.xmp.
        dry_run: say what would be changed, and change nothing.
        yes: image files themselves may be changed.
        backup: keep an image file as it was before it was changed.
    """

    target: Path | None = None
    unknown: str = defaults.UNKNOWN_LABEL
    min_score: float | None = None
    base: Path = Path()
    url_prefix: str = ""
    from_name: str = ""
    to_name: str = ""
    label_config: Path | None = None
    sidecar_name: str = "file"
    dry_run: bool = False
    yes: bool = False
    backup: bool = True

    @property
    def file(self) -> Path:
        """The target, of a format that has one."""
        if self.target is None:
            raise TypeError("this format needs a target")
        return self.target


class LeftOut:
    """Images that an export has no place for.

    Attributes:
        count: how many.
        reasons: path and reason of the first of them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[tuple[str, str]] = []

    def add(self, path: str, reason: str) -> None:
        """One more."""
        self.count += 1
        if len(self.reasons) < REASONS_KEPT:
            self.reasons.append((path, reason))


class Export(Protocol):
    """A sink (see `clipzs.run.Sink`) for the format of another tool.

    Attributes:
        left_out: images that are not in it, besides those that could not be read.
    """

    left_out: LeftOut
    again: str | None

    def write(self, batch: Sequence[Result], /) -> None:
        """Take one batch."""

    def close(self, run: Mapping[str, Any], /) -> None:
        """Write; nothing, if the run was interrupted.

        Raises:
            OutputError: the target cannot be written, or there is nothing to write.
        """

    def abandon(self) -> None:
        """Leave things as they were found."""

    def summary(self) -> str:
        """What was done, in words."""


@dataclass
class AtTheEnd(ABC):
    """An export that is written when all results are there. Of several records of an image, the last counts."""

    settings: Settings
    left_out: LeftOut = field(default_factory=LeftOut, init=False)
    again: str | None = field(default=None, init=False)

    def write(self, batch: Sequence[Result]) -> None:
        """Take what could be read."""
        for result in batch:
            if result.error is not None:
                continue
            if _can_be_named(result.path):
                self.take(result)
            else:
                self.left_out.add(result.path, "no file can have this name")

    def close(self, run: Mapping[str, Any]) -> None:
        """Write, unless interrupted."""
        if not run.get("interrupted"):
            self.save()

    def abandon(self) -> None:  # noqa: B027  # has nothing to do
        """Nothing was written."""

    @abstractmethod
    def take(self, result: Result) -> None:
        """Take the answer of one image."""

    @abstractmethod
    def save(self) -> None:
        """Write what was gathered.

        Raises:
            OutputError: the target cannot be written, or there is nothing to write.
        """

    @abstractmethod
    def summary(self) -> str:
        """What was done, in words."""

    def nothing(self) -> OutputError:
        """The failure of an export that no image is left for."""
        first = f": {self.left_out.reasons[0][0]}: {self.left_out.reasons[0][1]}" if self.left_out.count else ""
        return OutputError(f"nothing to export{first}", hint="--root names the folder of relative paths")


def answers(result: Result, settings: Settings) -> tuple[tuple[str, float | None], ...]:
    """The answers of a result that count, best first, each with its score if it has one.

    None for the unknown label and for what has too low a score; an answer without a score (a correction) counts.
    """
    scores = {one.label: one.score for one in reversed(result.scores)}
    found = ((label, result.score if label == result.label else scores.get(label)) for label in result.answers)
    least = settings.min_score
    return tuple(
        (label, score)
        for label, score in found
        if label.strip() and label != settings.unknown and (score is None or least is None or score >= least)
    )


def above(result: Result, label: str) -> tuple[str, ...]:
    """The groups that an answer is in, coarse first; none where answers are not rolled up.

    Records name the likeliest group of each level. It holds the answer if it has as much, since the answer has
    half or more.
    """
    groups: Sequence[Score] = result.groups or ()
    place = next((number for number, group in enumerate(groups) if group.label == label), -1)
    own = groups[place].score if place >= 0 else result.score
    if own is None:
        return ()
    return tuple(group.label for group in reversed(groups[place + 1 :]) if group.score >= own and group.label != label)


def named(result: Result, settings: Settings) -> set[str]:
    """All labels and groups that a record names, without the unknown label."""
    names = {*result.answers, *(one.label for one in (*result.scores, *(result.groups or ())))}
    return {name for name in names if name.strip() and name != settings.unknown}


def relative(path: str, base: Path) -> str | None:
    """A path from a folder, with slashes; None if it is not in that folder."""
    for absolute in (os.path.abspath, os.path.realpath):
        try:
            found = os.path.relpath(absolute(path), absolute(base))
        except ValueError:  # another drive
            continue
        if found != os.curdir and found.split(os.sep, 1)[0] != os.pardir:
            return found.replace(os.sep, "/")
    return None


def _can_be_named(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def fits_xml(text: str) -> bool:
    """Whether XML can hold it."""
    return _NOT_XML.search(text) is None


def xml_text(text: str) -> str:
    """The text with a replacement character for each one that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)


def is_everywhere(error: OSError) -> bool:
    """Whether what kept one file of many from being written keeps the others, too."""
    return error.errno in _EVERYWHERE


def show(path: str, sign: str, keyword: str) -> None:
    """One change of a dry run as a line on standard output: path, + or -, keyword, with tabs between them.

    Raises:
        OutputError: standard output is closed.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    fields = (path, sign, keyword)
    if sys.stdout.isatty():
        fields = (printable(path), sign, printable(keyword))
    sys.stdout.flush()
    sys.stdout.buffer.write(("\t".join(map(tsv_field, fields)) + "\n").encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
