"""What does parts: a model that is loaded once, and one part after the other through it."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from clipzs import __version__
from clipzs.batch import failures, inputs
from clipzs.batch.folder import Folder
from clipzs.batch.job import Job
from clipzs.batch.parts import Part
from clipzs.columns import RecordTable
from clipzs.embeddings import KEY, Facts
from clipzs.encoder import Progress
from clipzs.errors import ModelError
from clipzs.images import Blob
from clipzs.paths import Found
from clipzs.pipeline import Batch
from clipzs.results import Result
from clipzs.score import Array
from clipzs.writers import JsonlWriter, json_text

if TYPE_CHECKING:
    from clipzs.classifier import Classifier

_DIED = "the process that worked on it died"
_SEED = 20  # of the noise that the model is warmed up with


@dataclass(frozen=True)
class PartDone:
    """A part that is there.

    Attributes:
        id: its number.
        images: rows in it.
        errors: of these, images that could not be read.
        labels: how often each answer was given.
        seconds: that it took.
        there: whether it was there already; then nothing is known of the others.
    """

    id: int
    images: int = 0
    errors: int = 0
    labels: dict[str, int] | None = None
    seconds: float = 0.0
    there: bool = False


Advance = Callable[[int, int], None]  # so many more images of the part under way, and of these errors


def _nothing(images: int, errors: int) -> None:
    """Nobody wants to know."""


class Worker:
    """One model on one device. What a part becomes depends on the job alone, not on who does it nor on what was before.

    Attributes:
        job: that the parts are of.
        folder: of its output.
        classifier: the model and the labels.
    """

    def __init__(self, job: Job, *, progress: Progress | None = None, compiling: Progress | None = None) -> None:
        """Find the model and see that it makes the numbers of the job; weights are loaded for the first part.

        Args:
            job: what to do.
            progress: called with (done, total) while prompts are encoded.
            compiling: called with (done, total) while the model is compiled for this CPU.

        Raises:
            UsageProblem: the folder of the output has another job, or one by another model or in another precision.
            ClipzsError: the model cannot be had, labels or options are wrong, or the folder cannot be written.
        """
        self.job = job
        self.folder: Folder = job.folder()
        self.classifier: Classifier = job.classifier(progress=progress, compiling=compiling)
        job.settle(self.folder, self.classifier)
        self._warm = False

    def warm_up(self) -> None:
        """Load and compile the model, and embed the labels; is done for the first part unless it was done before.

        The first images would be answered by torch and others by what is compiled of it, whose numbers differ a little.

        Raises:
            ClipzsError: the model cannot be used, or labels cannot be told by it.
        """
        if self._warm:
            return
        embedder = self.classifier.embedder
        noise = np.random.default_rng(_SEED).integers(0, 256, (*embedder.model.preprocess.size, 3), np.uint8)
        with closing(embedder.batches([noise])) as batches:
            for _ in batches:
                pass
        embedder.compile()
        _ = self.classifier.scorer
        self._warm = True

    def run(self, part: Part, *, alone: bool = False, advance: Advance = _nothing) -> PartDone:
        """Do a part, unless it is there; its output is there at the end, whole, or not at all.

        Args:
            part: of the job's plan.
            alone: with each image by itself, which is written down before, so that a next attempt knows at which the
                process died, and does without it.
            advance: called as images are done.

        Raises:
            SourceError: its archive or table cannot be reached; it has failed, the others need not.
            ModelError: an image of it makes the model fail; as well.
            ClipzsError: the model cannot be used at all, or the output fails.
        """
        if self.folder.exists(self.job.file(part)):
            return PartDone(part.id, there=True)
        self.warm_up()
        started, counts, errors, number = time.monotonic(), Counter[str](), 0, 0
        embedded = self._alone(part) if alone else self.classifier.embedder.batches(self._images(part))
        with closing(embedded) as batches, self.folder.writing(self.job.file(part)) as file:
            table = self._table(file)
            for batch in batches:
                results = self.classifier.results(batch)
                table.write(results, batch.vectors if self.job.embeddings else None)
                failed = sum(error is not None for error in batch.errors)
                number, errors = number + len(results), errors + failed
                counts.update(answer for result in results for answer in result.answers)
                advance(len(results), failed)
            table.close()
        failures.clear(self.folder, part)
        return PartDone(part.id, number, errors, dict(counts), time.monotonic() - started)

    def _images(self, part: Part) -> Iterator[Blob | Found]:
        return inputs.images(part, self.folder, timeout=self.job.options.image_timeout)

    def _alone(self, part: Part) -> Generator[Batch, None, None]:
        known = failures.read(self.folder, part)
        if known.at is not None:
            known = replace(known, at=None, lost={**known.lost, known.at: _DIED})
        with self.classifier.embedder.pipeline() as pipeline:
            for number, image in enumerate(self._images(part)):
                name = image.name if isinstance(image, Blob) else image.path
                if number in known.lost:
                    yield Batch([name], [known.lost[number]], _NONE)
                    continue
                failures.write(self.folder, part, replace(known, at=number))
                try:
                    batch = pipeline.embed([pipeline.prepare(image, name)])
                except ModelError as error:
                    batch = Batch([name], [str(error)], _NONE)
                yield batch
        failures.write(self.folder, part, known)

    def _table(self, file: BinaryIO) -> "_Table":
        if self.job.format == "jsonl":
            return _Lines(file, self.job.decimals)
        model = self.classifier.model
        facts = Facts(model.name, model.digest, "images", __version__)
        embeddings = self.job.embeddings
        return RecordTable(
            lambda: file,
            embeddings=embeddings,
            decimals=self.job.decimals,
            metadata={KEY: json_text(asdict(facts))} if embeddings else None,
        )


_NONE: Array = np.empty((0, 0), np.float32)


class _Table(Protocol):
    def write(self, batch: Sequence[Result], vectors: Array | None = None, /) -> None:
        """Take a batch."""

    def close(self) -> None:
        """All of them are there."""


class _Lines:
    """Records of `classify --json`."""

    def __init__(self, file: BinaryIO, decimals: int) -> None:
        self._writer = JsonlWriter(file, decimals)

    def write(self, batch: Sequence[Result], vectors: Array | None = None, /) -> None:
        self._writer.write(batch)

    def close(self) -> None:
        self._writer.close({})
