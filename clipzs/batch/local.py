"""Parts one after the other, in this process: all of a job, or those of one of several processes."""

import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from clipzs.batch import failures
from clipzs.batch.folder import Folder
from clipzs.batch.job import Job
from clipzs.batch.parts import Part
from clipzs.batch.worker import Advance, PartDone, Worker
from clipzs.errors import ModelError, SourceError
from clipzs.interrupts import Interrupts


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        done: the parts that this run has done.
        failed: those that are not there because they failed, now or earlier, and why.
        interrupted: the signal that ended it, if one did.
    """

    done: list[PartDone] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    interrupted: int | None = None


@dataclass(frozen=True)
class Left:
    """The parts that a run has to do.

    Attributes:
        parts: in the order of the plan, and whether each is to be done with its images one by one.
        failed: those that are left out because a process died of them, and why.
    """

    parts: Sequence[tuple[Part, bool]]
    failed: dict[int, str]


def left(job: Job, here: Folder, plan: Iterable[Part], *, retry_failed: bool = False) -> Left:
    """What is not there yet, but for parts that a process died of, unless they are asked for.

    Args:
        job: of the parts.
        here: the folder of its output.
        plan: all parts, or some of them.
        retry_failed: try such parts again, with their images one by one.
    """
    there, troubled = here.names(), failures.numbers(here)
    parts, failed = [], {}
    for part in plan:
        if job.file(part) in there:
            continue
        known = failures.read(here, part) if part.id in troubled else failures.Failure(part.id)
        if known.alone and not retry_failed:
            failed[part.id] = known.reason
        else:
            parts.append((part, known.alone))
    return Left(parts, failed)


def run(worker: Worker, wanted: Left, *, advance: Advance, done: Callable[[PartDone], None]) -> Outcome:
    """Do parts, to the end, to Ctrl-C (or its like), or to a failure that is not of one part alone.

    The part under way is left out when it stops.

    Args:
        worker: what does them.
        wanted: parts that are not there.
        advance: as `Worker.run` takes it.
        done: called when a part is there.

    Raises:
        ClipzsError: the model or the output fails.
    """
    outcome = Outcome(failed=dict(wanted.failed))
    with Interrupts(lambda: None) as interrupts:
        try:
            if wanted.parts:
                worker.warm_up()  # a model that cannot be used is the end of all parts
            for part, alone in wanted.parts:
                try:
                    made = worker.run(part, alone=alone, advance=advance)
                except (SourceError, ModelError) as error:
                    outcome.failed[part.id] = str(error)
                    failures.note(worker.folder, part, str(error), alone=isinstance(error, ModelError))
                    continue
                if not made.there:
                    outcome.done.append(made)
                done(made)
        except KeyboardInterrupt:
            outcome.interrupted = interrupts.signal or signal.SIGINT
    return outcome
