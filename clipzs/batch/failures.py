"""Parts that could not be done: why, how often, and at which image a process died."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clipzs.batch.folder import Folder
from clipzs.batch.parts import Part
from clipzs.writers import json_text

FOLDER = "failed"


@dataclass(frozen=True)
class Failure:
    """What is known of a part that is not there.

    Attributes:
        part: its number.
        attempts: how often it was tried.
        reason: why it failed the last time.
        alone: whether it is to be tried again with each image by itself: some image may be why.
        at: the image under way, from 0 on, while that is done.
        lost: the images that are given up, and why.
    """

    part: int
    attempts: int = 0
    reason: str = ""
    alone: bool = False
    at: int | None = None
    lost: dict[int, str] = field(default_factory=dict)


def read(here: Folder, part: Part) -> Failure:
    """What is known of a part; nothing, if it never failed."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # of a damaged one, too, nothing is known
        said: dict[str, Any] = json.loads(here.read(_name(part)))
        return Failure(**{**said, "lost": {int(number): reason for number, reason in said["lost"].items()}})
    return Failure(part.id)


def write(here: Folder, part: Part, failure: Failure) -> None:
    """Keep it.

    Raises:
        OutputError: it cannot be written.
    """
    here.write(_name(part), f"{json_text(asdict(failure))}\n".encode())


def note(here: Folder, part: Part, reason: str, *, alone: bool) -> Failure:
    """One more attempt at a part has failed.

    Args:
        here: the folder of the output.
        part: that is not there.
        reason: in words.
        alone: as of `Failure`.

    Raises:
        OutputError: it cannot be written.
    """
    before = read(here, part)
    failure = replace(before, attempts=before.attempts + 1, reason=reason, alone=alone or before.alone)
    write(here, part, failure)
    return failure


def clear(here: Folder, part: Part) -> None:
    """The part is there."""
    here.remove(_name(part))


def numbers(here: Folder) -> set[int]:
    """The parts that have failed and are not there."""
    return {int(name[:-5]) for name in here.names(FOLDER) if name.endswith(".json") and name[:-5].isdigit()}


def _name(part: Part) -> str:
    return f"{FOLDER}/{part.name}.json"
