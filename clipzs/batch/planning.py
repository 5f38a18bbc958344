"""The plan of a job: made once, by the first process that comes, and the same for all."""

import json
from collections.abc import Callable

from clipzs.batch import inputs, parts
from clipzs.batch.folder import Folder
from clipzs.batch.job import Job
from clipzs.batch.parts import Part
from clipzs.errors import ClipzsError, UsageProblem
from clipzs.writers import json_text

PLAN = "plan.jsonl"
_COUNTED = 4096  # inputs after which their number is told


def plan(
    job: Job, here: Folder, *, waiting: Callable[[], None] = lambda: None, found: Callable[[int], None] = lambda _: None
) -> list[Part]:
    """All parts of a job. What the user named is looked through the first time only.

    The list of inputs and the plan take their places whole; if the plan is missing, the list makes the same one again.

    Args:
        job: with its inputs.
        here: the folder of its output.
        waiting: called if another process is making it.
        found: called now and then with how many more inputs were found.

    Raises:
        UsageProblem: the folder has the plan of other inputs, or as of `inputs.listed`.
        OutputError: it cannot be written.
        ClipzsError: there is no image.
    """
    if not here.exists(PLAN):
        with here.planning(waiting):
            if not here.exists(parts.LISTING):
                _list(job, here, found)
            _check(job, here)
            if not here.exists(PLAN):
                _cut(job, here)
    _check(job, here)
    try:
        with here.open(PLAN) as file:
            return [*map(parts.read, file)]
    except (ValueError, TypeError) as error:
        raise _strange(here, PLAN) from error


def _list(job: Job, here: Folder, found: Callable[[int], None]) -> None:
    with here.writing(parts.LISTING, first=True) as file:
        file.write(f"{json_text({'asked': job.asked})}\n".encode())
        number = 0
        for number, line in enumerate(inputs.listed(job.inputs), 1):
            file.write(line)
            if number % _COUNTED == 0:
                found(_COUNTED)
        if not number:
            raise ClipzsError(
                "nothing to classify: no images found",
                hint="folders are searched for the usual image suffixes; archives and tables are named: 'DIR/*.tar'",
            )


def _check(job: Job, here: Folder) -> None:
    """See that the list is of this job: one that was killed early has left no more than that."""
    try:
        with here.open(parts.LISTING) as file:
            asked = json.loads(file.readline())["asked"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _strange(here, parts.LISTING) from error
    job.check_asked(here, asked)


def _strange(here: Folder, name: str) -> UsageProblem:
    return UsageProblem(f"{here.place}/{name} is not what clipzs writes", hint="choose another folder with --out")


def _cut(job: Job, here: Folder) -> None:
    with here.open(parts.LISTING) as listing, here.writing(PLAN, first=True) as file:
        start = len(listing.readline())
        for part in parts.planned(listing, job.part_size, start=start):
            file.write(part.as_line())
