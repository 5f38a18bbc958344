"""Parts on the machines of a Ray cluster: Ray starts workers and hands them parts; all else is as on one machine.

Ray Data's pool of actors keeps each worker busy, starts lost ones again and gives others what these had in hand. It would
do so for ever, and the settings that bound it are about to go, so that attempts are counted here, of each part by itself.
"""

import json
import logging
import os
import secrets
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clipzs import __version__, processors
from clipzs.batch import failures, fetching, parts, raycluster
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
_MARK = ".seen"  # in the folder of the output: who reads there what was written here sees the same folder
_LOOKED_AT = 100  # inputs that a worker looks for

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

    Parts under way are left out when it stops. A part whose worker dies is tried `ATTEMPTS` times; then it has failed, and
    the others are done.

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
    device = job.options.device
    if device.startswith("cuda:"):
        raise UsageProblem(f"--device {device}: with --ray, Ray says which GPU is whose", hint="--device cuda, or auto")
    try:
        with raycluster.cluster(address, workers) as ray:
            share = raycluster.shared(raycluster.nodes(ray), workers, gpus_per_worker, device=device)
            share = replace(share, workers=min(share.workers, len(wanted.parts)))
            log.debug("Ray: %d workers with %d CPUs and %g GPUs each", share.workers, share.cpus, share.gpus)
            if ray.available_resources().get("CPU", 0) < share.cpus:
                log.warning("all CPUs of the Ray cluster are in use; workers start as some become free")
            if device == "auto":  # a GPU that is not this worker's must not be taken
                job = replace(job, options=replace(job.options, device="cuda" if share.gpus else "cpu"))
            with Interrupts(lambda: None) as interrupts, _marked(job.folder()) as mark:
                crew = _Crew(ray, job, share, mark, wanted.parts)
                try:
                    with crew.told(advance):
                        for said in crew.rows(wanted.parts):
                            _take(said, job, outcome, done)
                except KeyboardInterrupt:
                    outcome.interrupted = interrupts.signal or signal.SIGINT
    except KeyboardInterrupt:  # while Ray started
        outcome.interrupted = signal.SIGINT
    return outcome
