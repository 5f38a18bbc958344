"""What a job has done so far: its parts, in the order of its plan."""

import logging
import re
from collections.abc import Iterator
from typing import BinaryIO

from clipzs.batch import folder
from clipzs.errors import RecordsError, listed

log = logging.getLogger("clipzs")

_PART = re.compile(r"part-(\d+)\.(?:parquet|jsonl)")


def parts(place: str) -> Iterator[tuple[str, BinaryIO]]:
    """Name and content of each part that is there; a warning says how many are missing.

    Args:
        place: the folder of the job's output, which exists, or its URL.

    Raises:
        RecordsError: it is the folder of something else.
        OSError: it cannot be read.
    """
    out = folder.opened(place)
    there = out.names()
    if not {"job.json", "plan.jsonl"} <= there:
        raise RecordsError(
            f"{place}: a folder without job.json and plan.jsonl, so not what `clipzs batch` writes",
            hint="name a file, or the folder that was named with --out",
        )
    found = sorted((int(match[1]), match[0]) for match in map(_PART.fullmatch, there) if match)
    done = {number for number, _ in found}
    with out.open("plan.jsonl") as plan:
        missing = [f"{number:06}" for number, _ in enumerate(plan) if number not in done]
    if missing:
        log.warning("%s: %s of %s parts are missing: %s; the same `clipzs batch` again goes on with them", place,
                    f"{len(missing):,}", f"{len(missing) + len(done):,}", listed(missing))  # fmt: skip
    for _, name in found:
        with out.open(name) as file:
            yield f"{place.rstrip('/')}/{name}", file
