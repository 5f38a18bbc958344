"""Parts on the machines of a Ray cluster: Ray starts workers and hands them parts; all else is as on one machine.

Ray Data's pool of actors keeps workers busy, starts lost ones again and lets them do again what was in hand. It would
do so for ever, and its settings that bound that are about to go: attempts are counted here, for each part by itself.
"""

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

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
BLOCKS = 100_000  # what Ray is given to hand out, at most; of more parts, each has several
_STARTS = 3  # of each worker, on average, while no part gets done
_TOLD_S = 1.0  # between two words about progress
_ANSWER_S = 5.0
_PATIENCE_S = 0.2  # between two looks at whether another worker has loaded its model
_MARK = ".seen"  # in the folder of the output: who reads there what was written here sees the same folder

log = logging.getLogger("clipzs")


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
        advance: called about once a second, on a thread of its own, and at the end.
        done: called when a part is there.

    Raises:
        UsageProblem: there is no such cluster, the workers do not fit into it, or one of its machines has another
            version, other weights, or does not see the inputs and the output.
        ClipzsError: the model or the output fails.
    """
    outcome = Outcome(failed=dict(wanted.failed))
    if not wanted.parts:
        return outcome
    device, here, left = job.options.device, job.folder(), {part.id: part for part, _ in wanted.parts}
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
                ledger = _on_this_node(ray, ray.remote(_Ledger)).remote(_STARTS * share.workers)
                given = (job, share.cpus, __version__, mark, [*_must_see(here, wanted.parts)], ledger)
                try:
                    with _told(ray, ledger, advance):
                        for said in _said(ray, wanted.parts, share, given):
                            _take(said, left, here, outcome, done)
                except KeyboardInterrupt:
                    outcome.interrupted = interrupts.signal or signal.SIGINT
                else:
                    outcome.failed |= dict.fromkeys(left, "Ray has lost it")
    except KeyboardInterrupt:  # while Ray starts
        outcome.interrupted = signal.SIGINT
    return outcome


def _take(
    said: dict[str, Any], left: dict[int, Part], here: Folder, outcome: Outcome, done: Callable[[PartDone], None]
) -> None:
    """Take what a worker says of a part, which is none of those left then.

    Raises:
        ClipzsError: the worker cannot work, or no longer.
    """
    for text in said["warnings"]:
        log.warning(text)
    if said["stop"] is not None:
        raise (UsageProblem if said["usage"] else ClipzsError)(said["stop"], hint=said["hint"])
    part = left.pop(said["part"], None)
    if part is None:  # it was done by two, since one was believed dead
        return
    if said["failed"] is not None:
        outcome.failed[part.id] = said["failed"]
        failures.note(here, part, said["failed"], alone=said["died"])
        return
    made = PartDone(**said["done"])
    if not made.there:
        outcome.done.append(made)
    done(made)


def _said(
    ray: Any, wanted: Sequence[tuple[Part, bool]], share: raycluster.Share, given: tuple[Any, ...]
) -> Iterator[dict[str, Any]]:
    """What is said of each part as it is done, or not, in whatever order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # what Ray itself loses is not to be the end of the others
    lines = [{"line": json.dumps({"part": asdict(part), "alone": alone})} for part, alone in wanted]
    rows = ray.data.from_items(lines, override_num_blocks=min(len(lines), BLOCKS)).map_batches(
        _Hand,
        fn_constructor_args=given,
        batch_size=1,
        num_cpus=share.cpus,
        num_gpus=share.gpus or None,
        compute=ray.data.ActorPoolStrategy(size=share.workers, max_tasks_in_flight_per_actor=1),
    )
    try:
        for row in rows.iter_rows():
            yield json.loads(row["said"])
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        absent = "No module named 'clipzs" in str(error)
        raise ClipzsError(
            f"a worker cannot start on the Ray cluster: {said[-1]}",
            hint="install the same clipzs on all of its machines" if absent else "the same command goes on from there",
        ) from error


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


class _Hand:
    """A worker in an actor of Ray: takes parts, and says of each what became of it."""

    def __init__(self, job: Job, cpus: int, version: str, mark: str, must_see: Sequence[str], ledger: Any) -> None:
        self._job, self._ledger = job, ledger
        self._node = socket.gethostname()
        self._warnings = _Warnings()
        logging.getLogger("clipzs").addHandler(self._warnings)
        self._stop: ClipzsError | None = None
        try:
            if not self._ask(ledger.starts.remote()):
                raise ClipzsError(
                    "workers die again and again as they load the model", hint="is there too little memory?"
                )
            check_alike(job, version, mark, must_see)
            processors.bound(cpus)
            os.environ["OMP_NUM_THREADS"] = str(processors.count())  # torch reads it when it is imported
            self._worker = Worker(job)
            with _one_at_a_time(job):
                self._worker.warm_up()
        except ClipzsError as error:
            self._stop = error

    @staticmethod
    def _ask(answer: Any) -> Any:
        import ray

        return ray.get(answer)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """What is said of parts.

        Args:
            batch: in `line`, a part each, as JSON.
        """
        return {"said": [json.dumps(self._said(**json.loads(line))) for line in batch["line"]]}

    def _said(self, part: dict[str, Any], alone: bool) -> dict[str, Any]:
        said = self._tried(Part(**part), alone)
        nothing = {"stop": None, "hint": None, "usage": False, "failed": None, "died": False, "done": None}
        return {**nothing, "part": part["id"], "warnings": self._warnings.taken(), **said}

    def _tried(self, part: Part, alone: bool) -> dict[str, Any]:
        try:
            if self._stop is not None:
                raise self._stop
            attempt, before = self._ask(self._ledger.begins.remote(part.id, self._node))
            if attempt > (ATTEMPTS_ALONE if alone else ATTEMPTS) and not self._worker.folder.exists(
                self._job.file(part)
            ):
                return {"failed": f"its worker died {attempt - 1} times, the last time on {before}", "died": True}
            with _Telling(self._ledger, part.id) as telling:
                return {"done": asdict(self._worker.run(part, alone=alone, advance=telling.advance))}
        except SourceError as error:
            return {"failed": str(error)}
        except ClipzsError as error:
            usage = error.exit_code == USAGE
            return {"stop": f"{self._node}: {error}", "hint": error.hint, "usage": usage}


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
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._ledger.tells.remote(self._part, self._images, self._errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._images:
            self._tell()


class _Ledger:
    """What workers do, in an actor beside the driver: it outlives them."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._starts = 0
        self._begun: dict[int, list[str]] = {}
        self._images: dict[int, tuple[int, int]] = {}

    def starts(self) -> bool:
        """One more worker starts; whether it may, or too many did and came to nothing."""
        self._starts += 1
        return self._starts <= self._patience

    def begins(self, part: int, node: str) -> tuple[int, str]:
        """One more attempt at a part; which it is, and on which machine the one before was."""
        before = self._begun.setdefault(part, [])
        before.append(node)
        return len(before), before[-2] if before[1:] else ""

    def tells(self, part: int, images: int, errors: int) -> None:
        """So much of a part is done."""
        self._starts = 0
        self._images[part] = images, errors

    def total(self) -> tuple[int, int]:
        """Images that are done, and how many of them could not be read."""
        return sum(images for images, _ in self._images.values()), sum(errors for _, errors in self._images.values())


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


def _on_this_node(ray: Any, actor: Any) -> Any:
    """An actor that costs no processor and lives as long as the driver does."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return actor.options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)


@contextmanager
def _told(ray: Any, ledger: Any, advance: Advance) -> Iterator[None]:
    """Meanwhile, and at the end, `advance` hears what the ledger knows."""
    told = (0, 0)
    ended = threading.Event()

    def tell() -> None:
        nonlocal told
        with suppress(ray.exceptions.RayError):  # nothing hangs on it
            images, errors = ray.get(ledger.total.remote(), timeout=_ANSWER_S)
            if images > told[0]:
                advance(images - told[0], errors - told[1])
                told = images, errors

    def watch() -> None:
        while not ended.wait(_TOLD_S):
            tell()

    thread = threading.Thread(target=watch, name="clipzs-ray", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_ANSWER_S)
    tell()


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
