"""What a job has come to, when all of its parts are there."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from clipzs import columns
from clipzs.batch.folder import Folder
from clipzs.batch.job import Job, read
from clipzs.batch.parts import Part
from clipzs.batch.worker import PartDone
from clipzs.errors import OutputError
from clipzs.writers import json_text

NAME = "summary.json"


def missing(job: Job, here: Folder, plan: Iterable[Part]) -> list[Part]:
    """The parts that are not there."""
    there = here.names()
    return [part for part in plan if job.file(part) not in there]


def settled(job: Job, here: Folder, plan: Sequence[Part], done: Sequence[PartDone]) -> dict[str, Any]:
    """The sum of a job whose parts are all there, written down; the same, whoever does it.

    Args:
        job: that is done.
        here: the folder of its output.
        plan: its parts.
        done: what this run has done; the other parts are looked into, unless there are none and that was done.

    Raises:
        OutputError: a part cannot be read, or the summary not be written.
    """
    if not done:
        with suppress(OSError, ValueError):
            return dict(json.loads(here.read(NAME)))
    known = {one.id: one for one in done}
    labels, images, errors = Counter[str](), 0, 0
    for part in plan:
        one = known.get(part.id) or _counted(job, here, part)
        images, errors = images + one.images, errors + one.errors
        labels.update(one.labels or {})
    said = read(here) or {}
    facts = {
        "parts": len(plan),
        "images": images,
        "errors": errors,
        "labels": dict(sorted(labels.items(), key=lambda pair: (-pair[1], pair[0]))),
        **{name: said.get(name) for name in ("model", "config", "precision")},
        "format": job.format,
        "embeddings": job.embeddings,
    }
    here.write(NAME, f"{json_text(facts)}\n".encode())
    here.tidy()
    return facts


def _counted(job: Job, here: Folder, part: Part) -> PartDone:
    """What is in a part that was done earlier, or by another process."""
    counts, images, errors = Counter[str](), 0, 0
    name = job.file(part)
    try:
        with here.open(name) as file:
            records = map(json.loads, file) if job.format == "jsonl" else _rows(file)
            for record in records:
                images += 1
                errors += record["error"] is not None
                label = [] if record["label"] is None else [record["label"]]
                counts.update(record.get("labels") or label)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{here.place}/{name} cannot be read: {error}", hint="remove it: the same command makes it anew"
        ) from error
    return PartDone(part.id, images, errors, dict(counts), there=True)


def _rows(file: Any) -> Iterable[dict[str, Any]]:
    arrow, parquet = columns.needed()
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(columns=["label", "labels", "error"]):
                yield from batch.to_pylist()
    except arrow.ArrowException as error:
        raise ValueError(str(error)) from error
