"""Parts on the machines of a Ray cluster: Ray starts workers where there is room; all else is as on one machine.

Who does which part is kept here and not left to Ray Data's pool of actors: its settings that bound attempts end with
Ray 2.64, and without them what kills its worker is tried for ever; and parts wait there for a worker that was lost.
"""

import json
import logging
import os
import secrets
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipzs import __version__, defaults, output, privatefiles, processors
from clipzs.batch import failures, fetching, raycluster
from clipzs.batch.folder import Folder
from clipzs.batch.job import Job
from clipzs.batch.local import Left, Outcome
from clipzs.batch.parts import LISTING, Part
from clipzs.batch.worker import Advance, PartDone, Worker
from clipzs.errors import USAGE, ClipzsError, SourceError, UsageProblem
from clipzs.interrupts import Interrupts

ATTEMPTS = 3  # at a part whose worker dies, in one run
ATTEMPTS_ALONE = 32  # the same image by image: each costs one image, and none a second one
STARTS = 3  # for each worker, on average, while no part gets done
_TOLD_S = 1.0  # between two words about progress
_PATIENCE_S = 0.2  # between two looks at whether another worker has loaded its model
_CREATION = "creation task"  # in what Ray says if an actor cannot be made
_MARK = ".seen"  # in the folder of the output: who reads there what was written here sees the same folder

log = logging.getLogger("clipzs")


@dataclass(frozen=True)
class _Said:
    """What a worker says.

    Attributes:
        done: the part, if it is there.
        failed: why it is not.
        died: whether workers died of it.
        stop: why it cannot work.
        node: the name of its machine.
        warnings: of clipzs, since it said something the last time.
    """

    done: PartDone | None = None
    failed: str = ""
    died: bool = False
    stop: ClipzsError | None = None
    node: str = ""
    warnings: Sequence[str] = ()


def run(
    job: Job,
    wanted: Left,
    *,
    address: str,
    workers: int | None,
    gpus_per_worker: float | None,
    advance: Advance,
    done: Callable[[PartDone], None] = lambda _: None,
) -> Outcome:
    """Do parts on a cluster, to the end, to Ctrl-C (or its like), or to a failure that is not of one part alone.

    Parts under way are left out when it stops. A part whose worker dies is tried `ATTEMPTS` times; then it has failed,
    and the others are done.

    Args:
        job: of the parts; its plan is there.
        wanted: parts that are not there.
        address: of the cluster, as `raycluster.cluster` takes it.
        workers: how many models work at once; None is as `raycluster.shared` says.
        gpus_per_worker: GPUs of each.
        advance: called about once a second, and at the end.
        done: called when a part is there.

    Raises:
        UsageProblem: there is no such cluster, the workers do not fit into it, or one of its machines has another
            version, other weights, or does not see the inputs and the output.
        ClipzsError: the model or the output fails.
    """
    outcome = Outcome(failed=dict(wanted.failed))
    if not wanted.parts:
        return outcome
    device, here = job.options.device, job.folder()
    if device.startswith("cuda:"):
        raise UsageProblem(f"--device {device}: with --ray, Ray says which GPU is whose", hint="--device cuda, or auto")
    try:
        with raycluster.cluster(address, workers) as ray:
            share = raycluster.shared(raycluster.nodes(ray, address, workers), workers, gpus_per_worker, device=device)
            share = replace(share, workers=min(share.workers, len(wanted.parts)))
            log.debug("Ray: %d workers with %d CPUs and %g GPUs each", share.workers, share.cpus, share.gpus)
            if ray.available_resources().get("CPU", 0) < share.cpus:
                log.warning("the CPUs of the Ray cluster are in use; workers start as they become free")
            if device == "auto":  # a GPU that is not this worker's must not be taken
                job = replace(job, options=replace(job.options, device="cuda" if share.gpus else "cpu"))
            with Interrupts(lambda: None) as interrupts, _marked(here) as mark:
                try:
                    crew = _Crew(ray, share, (job, share.cpus, __version__, mark, [*_must_see(here, wanted.parts)]))
                    for part, said in crew.work(wanted.parts, advance):
                        _take(part, said, here, outcome, done)
                except KeyboardInterrupt:
                    outcome.interrupted = interrupts.signal or signal.SIGINT
    except KeyboardInterrupt:  # while Ray starts
        outcome.interrupted = signal.SIGINT
    return outcome


def _take(part: Part, said: _Said, here: Folder, outcome: Outcome, done: Callable[[PartDone], None]) -> None:
    if said.done is None:
        outcome.failed[part.id] = said.failed
        failures.note(here, part, said.failed, alone=said.died)
        return
    if not said.done.there:
        outcome.done.append(said.done)
    done(said.done)


def check_alike(job: Job, version: str, mark: str, must_see: Sequence[str]) -> None:
    """See that this machine has what the driver's has, and go to the folder where relative paths start.

    Args:
        job: whose inputs and output have to be found here.
        version: of clipzs there.
        mark: what the driver has written into the folder of the output.
        must_see: paths that are there.

    Raises:
        UsageProblem: it is another version, or something is not there.
    """
    if version != __version__:
        raise UsageProblem(f"clipzs is {__version__} there and {version} here", hint="install the same on all machines")
    with suppress(OSError):  # what would have to be there is found to be missing
        os.chdir(job.inputs.folder)
    shared = "inputs and output have to be in a file system that all machines share, or in an object store"
    try:
        seen = (job.folder().read(_MARK) if fetching.is_url(job.out) else Path(job.out, _MARK).read_bytes()).decode()
    except (OSError, ValueError):
        seen = ""
    if seen != mark:
        raise UsageProblem(f"--out {job.out} is not the same folder there", hint=shared)
    for path in must_see:
        if not os.path.exists(path):
            raise UsageProblem(f"{path} is not to be found there", hint=shared)


@dataclass
class _Place:
    """A worker as the driver sees it.

    Attributes:
        actor: Ray's handle of it.
        node: the name of its machine, once it is known.
        task: the part it does, and whether image by image; None while it starts.
    """

    actor: Any
    node: str = ""
    task: tuple[Part, bool] | None = None


class _Crew:
    """The workers of a run. One that is lost is replaced as soon as there is room; others do what it had in hand."""

    def __init__(self, ray: Any, share: raycluster.Share, given: tuple[Any, ...]) -> None:
        """Start them.

        Args:
            ray: connected.
            share: how many, and what each may use.
            given: what each is made of.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._ray = ray
        self._ledger = ray.remote(_Ledger).options(num_cpus=0, scheduling_strategy=here).remote()
        self._hand = ray.remote(_Hand).options(num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0)
        self._given = (*given, self._ledger)
        self._told, self._asked_at = (0, 0), time.monotonic()
        self._starts_left = self._patience = STARTS * share.workers
        self._awaited: dict[Any, _Place] = {}  # who has still to answer
        for _ in range(share.workers):
            self._hire()

    def work(self, wanted: Sequence[tuple[Part, bool]], advance: Advance) -> Iterator[tuple[Part, _Said]]:
        """Each part with what became of it, as they are done.

        Args:
            wanted: the parts, and whether each is to be done image by image.
            advance: as of `run`.

        Raises:
            ClipzsError: a worker cannot work.
        """
        waiting, deaths, left = deque(wanted), Counter[int](), len(wanted)
        idle: list[_Place] = []
        while left:
            while waiting and idle:
                place, task = idle.pop(), waiting.popleft()
                self._awaited[place.actor.run.remote(*task)] = replace(place, task=task)
            answers, _ = self._ray.wait([*self._awaited], timeout=_TOLD_S)
            for answer in answers:
                place = self._awaited.pop(answer)
                said = self._heard(answer, place)
                if said is not None:
                    idle.append(replace(place, node=said.node))
                if place.task is None:
                    continue
                part, alone = place.task
                if said is None:
                    deaths[part.id] += 1
                    if deaths[part.id] < (ATTEMPTS_ALONE if alone else ATTEMPTS):
                        waiting.appendleft((part, alone))
                        continue
                    reason = f"its worker died {deaths[part.id]} times, the last time on {place.node}"
                    said = _Said(failed=reason, died=True)
                left -= 1
                yield part, said
            if time.monotonic() - self._asked_at >= _TOLD_S or not left:
                self._tell(advance)

    def _hire(self) -> None:
        actor = self._hand.remote(*self._given)
        self._awaited[actor.ready.remote()] = _Place(actor)

    def _heard(self, answer: Any, place: _Place) -> _Said | None:
        """What a worker says; None if it is lost, and another is on its way."""
        errors = self._ray.exceptions
        try:
            said: _Said = self._ray.get(answer)
        except errors.RayTaskError as error:
            raise ClipzsError(f"{place.node}: {_last_line(error)}") from error
        except errors.RayError as error:
            self._replace(place, error)
            return None
        for text in said.warnings:
            log.warning(text)
        if said.stop is not None:
            kind = UsageProblem if said.stop.exit_code == USAGE else ClipzsError
            raise kind(f"{said.node}: {said.stop}", hint=said.stop.hint)
        if said.done is not None:
            self._starts_left = self._patience
        return said

    def _replace(self, place: _Place, error: Exception) -> None:
        if place.task is None:
            self._starts_left -= 1
            if _CREATION in str(error):
                absent = "No module named 'clipzs" in str(error)
                hint = "install the same clipzs on all machines of the cluster" if absent else None
                raise ClipzsError(f"a worker cannot start: {_last_line(error)}", hint=hint) from error
            if self._starts_left <= 0:
                raise ClipzsError(
                    f"workers die again and again as they load the model: {_last_line(error)}",
                    hint="if memory is short, ask for fewer with --workers",
                ) from error
        self._ray.kill(place.actor)  # it may only be out of reach
        self._hire()

    def _tell(self, advance: Advance) -> None:
        self._asked_at = time.monotonic()
        with suppress(self._ray.exceptions.RayError):  # nothing hangs on it
            images, errors = self._ray.get(self._ledger.total.remote(), timeout=_TOLD_S)
            if images > self._told[0]:
                advance(images - self._told[0], errors - self._told[1])
                self._told = images, errors


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


class _Hand:
    """A worker, in an actor of Ray."""

    def __init__(self, job: Job, cpus: int, version: str, mark: str, must_see: Sequence[str], ledger: Any) -> None:
        self._job, self._ledger = job, ledger
        self._warnings = _Warnings()
        logging.getLogger("clipzs").addHandler(self._warnings)
        self._stop: ClipzsError | None = None
        try:
            check_alike(job, version, mark, must_see)
            processors.bound(cpus)
            os.environ["OMP_NUM_THREADS"] = str(processors.count())  # torch reads it when it is imported
            self._worker = Worker(job)
            with _one_at_a_time(job):
                self._worker.warm_up()
        except ClipzsError as error:
            self._stop = error

    def ready(self) -> _Said:
        """Whether it can work."""
        return self._said(stop=self._stop)

    def run(self, part: Part, alone: bool) -> _Said:
        """Do a part, as `Worker.run`."""
        telling = _Telling(self._ledger, part.id)
        try:
            done = self._worker.run(part, alone=alone, advance=telling.advance)
        except SourceError as error:
            return self._said(failed=str(error))
        except ClipzsError as error:
            return self._said(stop=error)
        telling.tell()
        return self._said(done=done)

    def _said(self, **said: Any) -> _Said:
        return _Said(node=socket.gethostname(), warnings=self._warnings.taken(), **said)


class _Telling:
    """Tells the ledger now and then how far a part is."""

    def __init__(self, ledger: Any, part: int) -> None:
        self._ledger, self._part = ledger, part
        self._images = self._errors = 0
        self._told = time.monotonic()

    def advance(self, images: int, errors: int) -> None:
        """So many more."""
        self._images, self._errors = self._images + images, self._errors + errors
        if time.monotonic() - self._told >= _TOLD_S:
            self.tell()

    def tell(self) -> None:
        """So many in all."""
        self._told = time.monotonic()
        self._ledger.tells.remote(self._part, self._images, self._errors)


class _Ledger:
    """How far the parts are, in an actor beside the driver: workers are too busy to be asked."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[int, int]] = {}

    def tells(self, part: int, images: int, errors: int) -> None:
        """So much of a part is done."""
        self._parts[part] = images, errors

    def total(self) -> tuple[int, int]:
        """Images that are done, and how many of them could not be read."""
        return sum(images for images, _ in self._parts.values()), sum(errors for _, errors in self._parts.values())


class _Warnings(logging.Handler):
    """What clipzs warns of on another machine, to be said on the driver's."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())

    def taken(self) -> list[str]:
        """All since the last time."""
        texts, self._texts = self._texts, []
        return texts


@contextmanager
def _marked(here: Folder) -> Iterator[str]:
    """A word in the folder, by which others know that it is the same."""
    mark = secrets.token_hex(8)
    here.write(_MARK, mark.encode())
    try:
        yield mark
    finally:
        here.remove(_MARK)


@contextmanager
def _one_at_a_time(job: Job) -> Iterator[None]:
    """On each machine with this cache: a model that is compiled for its CPU is compiled once, and in memory once."""
    cache = (job.options.cache_dir or defaults.cache_dir()) if job.options.cache else None
    if cache is None or job.options.device != "cpu":
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):  # a cache that cannot be used costs time only
            privatefiles.make_folder(cache)
            file = stack.enter_context(open(cache / f"warming-{socket.gethostname()}", "ab"))
            while not output.locked(file.fileno()):
                time.sleep(_PATIENCE_S)
        yield


def _must_see(here: Folder, wanted: Sequence[tuple[Part, bool]]) -> Iterator[str]:
    """Some of the inputs that are files here, of each kind."""
    first = {part.kind: part for part, _ in reversed(wanted)}
    for part in first.values():
        source = part.source
        if part.kind == "paths":
            with here.open(LISTING, part.start, part.stop) as listing:
                named = json.loads(listing.readline())
            source = named if isinstance(named, str) else named[0]
        if os.path.exists(source):
            yield source
