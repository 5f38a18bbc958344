"""`clipzs batch`: very many images, in parts, on one machine or many."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.groups import (
    AnswerGroup,
    FilesGroup,
    LabelGroup,
    OwnModelGroup,
    PromptGroup,
    ReadingGroup,
    TalkGroup,
    grouped,
    options,
    settled_head,
)
from clipzs.cli.narration import REASONS_SHOWN, Progress, say, set_up
from clipzs.cli.running import selected
from clipzs.errors import FAILED, SIGNALLED, SOME_IMAGES_FAILED, UsageProblem

if TYPE_CHECKING:
    from clipzs.batch.folder import Folder
    from clipzs.batch.job import Job
    from clipzs.batch.local import Left, Outcome
    from clipzs.batch.parts import Part
    from clipzs.batch.worker import PartDone

PARTS, MACHINES = "Parts", "Many machines"
LABELS_SHOWN = 5
_TELL_S = 60.0  # between two lines where no terminal shows a bar

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUTS",
        help="Folders, images, lists of them (.txt, .csv, .tsv, .jsonl, .parquet; - is standard input), archives "
        "(.tar, .tar.gz) and tables of images (.parquet), here or by URL. {000..099} and * in names are understood.",
    ),
]


@grouped
def batch(
    ctx: typer.Context,
    paths: Inputs = None,
    *,
    out: Annotated[
        str | None,
        o.option("--out", metavar="DIR", help="The folder of the results: a new one, or that of the same job to go on.",
                 panel=o.OUTPUT),
    ] = None,
    labels: LabelGroup,
    head: o.Head = None,
    prompts: PromptGroup,
    model: OwnModelGroup,
    score: o.Score = "softmax",
    top_k: o.TopK = None,
    by_group: o.ByGroup = False,
    answers: AnswerGroup,
    decimals: o.Decimals = defaults.DECIMALS,
    files: FilesGroup,
    reading: ReadingGroup,
    format_: Annotated[
        Literal["parquet", "jsonl"], o.option("--format", "-f", help="Of the parts.", panel=o.OUTPUT)
    ] = "parquet",
    embeddings: Annotated[
        bool, o.option("--embeddings", help="Write the embedding of each image too (Parquet only).", panel=o.OUTPUT)
    ] = False,
    dtype: Annotated[
        Literal["float32", "float16"],
        o.option("--dtype", help="Of the embeddings; float16 has half the size and three digits.", panel=o.OUTPUT),
    ] = "float32",
    part_size: Annotated[
        int,
        o.option("--part-size", metavar="N", min=1, panel=PARTS,
                 help="Images of a part; an archive is one part however many it has."),
    ] = defaults.PART_SIZE,
    num_shards: Annotated[
        int | None,
        o.option("--num-shards", metavar="N", min=1, help="How many processes share the job, each with its --shard.",
                 panel=PARTS),
    ] = None,
    shard: Annotated[
        int | None,
        o.option("--shard", metavar="I", min=0, help="Which of them this is, from 0 on: of N parts it does each Nth.",
                 panel=PARTS),
    ] = None,
    retry_failed: Annotated[
        bool,
        o.option("--retry-failed", panel=PARTS,
                 help="Try parts again that a process died of, image by image: only the one that is why is lost."),
    ] = False,
    ray: Annotated[
        str | None,
        o.option("--ray", metavar="ADDRESS|local", panel=MACHINES,
                 help="Let Ray share out the parts: the address of a cluster, or local to start one on this machine."),
    ] = None,
    workers: Annotated[
        int | None,
        o.option("--workers", metavar="N", min=1, panel=MACHINES,
                 help="With --ray: how many models work at once. Unless given: as many as there is room for."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        o.option("--gpus-per-worker", metavar="X", min=0.0, panel=MACHINES,
                 help="With --ray: GPUs of each; 0.5 lets two share one. Unless given: 1 where there are GPUs."),
    ] = None,
    talk: TalkGroup,
) -> None:  # fmt: skip
    """Classify very many images, in parts: each part is a file in DIR, done once, whoever does it.

    A job that was stopped or killed goes on with the same command. Several processes and machines may work on one DIR
    at the same time (--num-shards, --ray); the results are the same. `clipzs report`, `export` and `eval` take DIR as
    --results. Nothing is written to standard output.

    Exit codes: 0 all parts that were to be done are there, 1 some failed or there are no images, 2 wrong usage, 3 some
    images could not be read (each has its error record), 130 stopped with Ctrl-C (143 by SIGTERM).
    """  # fmt: skip
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    if ray is None:
        from clipzs.decoders import DECODERS

        DECODERS.start()  # ready when the model is
    from clipzs.batch import local, planning
    from clipzs.batch.job import Inputs, Job

    if out is None:
        raise UsageProblem("nothing says where the results are to be written", hint="name a folder: --out DIR")
    selection = selected(paths or [], files)
    _check_machines(ray, num_shards, shard, workers, gpus_per_worker)
    _check_format(format_, embeddings)
    if model.image_cache and o.is_typed(ctx, "image_cache"):
        raise UsageProblem("a batch keeps no embeddings in the cache", hint="--embeddings writes them to the parts")
    fitted = settled_head(ctx, head, labels, prompts)
    job = Job(
        out,
        Inputs(
            tuple(selection.paths),
            tuple(selection.lists),
            selection.null,
            selection.recursive,
            tuple(selection.exclude),
            os.getcwd(),
        ),
        tuple(labels.given()),
        options(model, reading, prompts, score=score, top_k=top_k, by_group=by_group, head=fitted, **vars(answers)),
        format=format_,
        embeddings=dtype if embeddings else None,
        decimals=decimals,
        part_size=part_size,
    )
    job = _checked(job, model=ray is None)
    here = job.folder()
    job.check_asked(here)
    progress = Progress(enabled=not talk.quiet, until_first=False)
    with progress.shown(None, first="looking for images"):
        plan = planning.plan(job, here, waiting=_say_waiting, found=lambda more: progress.advance(more, "images found"))
    worker = None
    if ray is None:
        from clipzs.batch.worker import Worker

        worker = Worker(job, progress=progress.prompts, compiling=progress.compiling)
    own = plan if num_shards is None else [part for part in plan if part.id % num_shards == shard]
    wanted = local.left(job, here, own, retry_failed=retry_failed)
    telling = _Telling(progress, wanted, len(own), quiet=talk.quiet)
    total = _images(own)
    with progress.shown(None if total is None else lambda: total or 0, done=telling.before(own)):
        if worker is not None:
            outcome = local.run(worker, wanted, advance=telling.advance, done=telling.done)
        else:
            from clipzs.batch import rayjobs

            outcome = rayjobs.run(
                job,
                wanted,
                address=ray or "",
                workers=workers,
                gpus_per_worker=gpus_per_worker,
                advance=telling.advance,
                done=telling.done,
            )
    telling.end()
    raise typer.Exit(_concluded(job, here, plan, outcome, quiet=talk.quiet))


def _check_machines(
    ray: str | None, num_shards: int | None, shard: int | None, workers: int | None, gpus: float | None
) -> None:
    """Raise a `UsageProblem` if options are missing or contradict each other."""
    if (num_shards is None) != (shard is None):
        raise UsageProblem("--num-shards and --shard go together", hint="--num-shards 8 --shard 0 is one of eight")
    if num_shards is not None and shard is not None and shard >= num_shards:
        raise UsageProblem(f"--shard {shard}: of {num_shards} the last is {num_shards - 1}")
    if ray is not None and num_shards is not None:
        raise UsageProblem("--ray shares out the parts itself", hint="leave --num-shards and --shard out")
    for name, value in (("--workers", workers), ("--gpus-per-worker", gpus)):
        if ray is None and value is not None:
            raise UsageProblem(f"{name} is for --ray", hint="--ray local starts it on this machine")


def _check_format(format_: str, embeddings: bool) -> None:
    """Raise a `UsageProblem` if parts cannot be written so."""
    if format_ == "parquet":
        from clipzs.columns import needed

        needed()
    elif embeddings:
        raise UsageProblem("--embeddings are a column of Parquet", hint="leave --format out")


def _checked(job: "Job", *, model: bool) -> "Job":
    """The job with what is in files here, which other machines may not have: templates.

    Args:
        job: as it was asked for.
        model: see that it can be had here.

    Raises:
        ClipzsError: labels, templates or options are wrong, or the model cannot be had.
    """
    classifier = job.classifier()
    if model:
        _ = classifier.configuration  # before images are looked for, which may take hours
    if classifier.head is not None:
        return job
    said = replace(classifier.options, templates=(), template=classifier.templates, context="", prompts_dir=None)
    return replace(job, options=replace(said, image_cache=job.options.image_cache))


def _say_waiting() -> None:
    say("another process is looking for the images of this job; waiting for it")


def _images(parts: "Sequence[Part]") -> int | None:
    """How many are in some parts, if that is known."""
    known = [part.images for part in parts if part.images is not None]
    return sum(known) if len(known) == len(parts) else None


class _Telling:
    """What is said on the way: a bar on a terminal; elsewhere now and then a line."""

    def __init__(self, progress: Progress, wanted: "Left", parts: int, *, quiet: bool) -> None:
        self._progress, self._parts, self._quiet = progress, parts, quiet
        self._missing = {*(part.id for part, _ in wanted.parts), *wanted.failed}
        self._there = parts - len(self._missing)
        self._images = self._errors = 0
        self._started = self._told = time.monotonic()

    def before(self, parts: "Sequence[Part]") -> int:
        """Images of the parts that are there already, as far as it is known."""
        return sum(part.images or 0 for part in parts if part.id not in self._missing)

    def advance(self, images: int, errors: int) -> None:
        """So many more images are done, and of them so many could not be read."""
        self._images += images
        self._errors += errors
        some = f", {self._errors:,} errors" if self._errors else ""
        self._progress.advance(images, f"{self._there:,} of {self._parts:,} parts{some}, images")

    def done(self, part: "PartDone") -> None:
        """A part is there."""
        self._there += 1
        now = time.monotonic()
        if now - self._told > _TELL_S and not (self._quiet or self._progress.enabled):
            self._told = now
            rate = self._images / (now - self._started)
            say(
                f"{self._there:,} of {self._parts:,} parts; {self._images:,} images, {rate:,.1f}/s, "
                f"{self._errors:,} of them could not be read"
            )

    def end(self) -> None:
        """The run is over."""
        if self._images and not self._quiet:
            seconds = time.monotonic() - self._started
            say(f"{self._images:,} images in {seconds:,.1f} s, {self._images / seconds:,.1f}/s")


def _concluded(job: "Job", here: "Folder", plan: "Sequence[Part]", outcome: "Outcome", *, quiet: bool) -> int:
    """The exit code, with the closing words that go with it; the summary, if that was the last part."""
    from clipzs.batch import summary

    missing = summary.missing(job, here, plan)
    images, errors = sum(one.images for one in outcome.done), sum(one.errors for one in outcome.done)
    if not missing:
        facts = summary.settled(job, here, plan, outcome.done)
        images, errors = facts["images"], facts["errors"]
        if not quiet:
            say(f"{here.place}: {images:,} images in {len(plan):,} parts{_most(facts)}")
    elif not quiet:
        say(f"{here.place}: {len(plan) - len(missing):,} of {len(plan):,} parts are there")
    if outcome.interrupted is not None:
        say("stopped; the part under way is left out")
        say("the same command goes on from there", kind="hint")
        return SIGNALLED + outcome.interrupted
    if outcome.failed:
        sources = {part.id: part.source for part in plan if part.id in outcome.failed}
        for number, reason in islice(sorted(outcome.failed.items()), REASONS_SHOWN):
            source = "" if not sources[number] or sources[number] in reason else f" ({sources[number]})"
            say(f"part {number:06}{source}: {reason}", kind="error")
        say(f"{len(outcome.failed):,} parts failed", kind="error")
        say("the same command tries them again; with --retry-failed also those that a process died of", kind="hint")
        return FAILED
    if errors:
        if not quiet:
            say(f"{errors:,} of {images:,} images could not be read; their records say why", kind="error")
        return SOME_IMAGES_FAILED
    return 0


def _most(facts: dict[str, Any]) -> str:
    """The commonest answers."""
    labels = facts["labels"]
    some = ", ".join(f"{name} {count:,}" for name, count in islice(labels.items(), LABELS_SHOWN))
    more = f" and {len(labels) - LABELS_SHOWN:,} other labels" if len(labels) > LABELS_SHOWN else ""
    return f": {some}{more}" if labels else ""
