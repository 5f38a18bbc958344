"""One run: results of a classifier, or of an earlier run, into sinks, with a count of everything."""

import logging
import platform
import signal
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from clipzs import __version__
from clipzs.classifier import Classifier
from clipzs.errors import ClipzsError, OutputError
from clipzs.interrupts import Interrupts
from clipzs.labels import written
from clipzs.output import check_writable, save
from clipzs.paths import Selection
from clipzs.results import Result
from clipzs.resume import Earlier
from clipzs.writers import json_text

REASONS_KEPT = 20
REPLAYED_AT_ONCE = 1024  # results of an earlier run in a batch

logger = logging.getLogger("clipzs")


class Sink(Protocol):
    """Where results go, a batch at a time.

    `again` says how to go on where a run was stopped, for the last line that the user reads; None if it cannot.
    """

    @property
    def again(self) -> str | None:
        """In words, what goes on from there."""

    def write(self, batch: Sequence[Result], /) -> None:
        """Take one batch."""

    def close(self, run: Mapping[str, Any], /) -> None:
        """All batches are there, or all that there will be; `run` holds the facts of the run."""

    def abandon(self) -> None:
        """Leave things as they were found, if nothing was written."""


class Passage:
    """Batches of results into sinks.

    Attributes:
        sinks: each is given all of them.
        images: results written.
        errors: of these, images that could not be read.
        reasons: path and reason of the first of those.
        interrupted: the signal that ended it, if one did.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = sinks
        self.images = self.errors = 0
        self.reasons: list[tuple[str, str]] = []
        self.interrupted: int | None = None

    @property
    def again(self) -> str | None:
        """What goes on where it was stopped, in words."""
        return next((sink.again for sink in self.sinks if sink.again), None)

    def _pass(
        self, batches: Generator[Sequence[Result], None, None], interrupts: Interrupts, advance: Callable[[int], None]
    ) -> None:
        with closing(batches):
            for batch in batches:
                interrupts.begin()
                advance(len(batch))
                for sink in self.sinks:
                    sink.write(batch)
                self._count(batch)
                interrupts.end()

    def _count(self, batch: Sequence[Result]) -> None:
        failed = [(result.path, result.error) for result in batch if result.error is not None]
        self.images += len(batch)
        self.errors += len(failed)
        self.reasons += failed[: REASONS_KEPT - len(self.reasons)]

    def _close(self, facts: Mapping[str, Any]) -> None:
        for sink in self.sinks:
            sink.close(facts)

    def _abandon(self) -> None:
        for sink in self.sinks:
            sink.abandon()


class Replay(Passage):
    """Results that were written earlier, into sinks: no model is asked."""

    def __init__(self, results: Iterable[Result], sinks: Sequence[Sink], *, at_once: int = REPLAYED_AT_ONCE) -> None:
        super().__init__(sinks)
        self._results = iter(results)
        self._at_once = at_once

    def __call__(self, advance: Callable[[int], None], put_off: Callable[[], None]) -> None:
        """As `Run` does.

        Raises:
            ClipzsError: the results cannot be read, or a sink cannot be written.
        """
        with Interrupts(put_off) as interrupts:
            try:
                self._pass(self._batches(), interrupts, advance)
            except KeyboardInterrupt:
                self.interrupted = interrupts.signal or signal.SIGINT
            facts = {"images": self.images, "errors": self.errors, "interrupted": self.interrupted is not None}
            interrupts.begin()  # what is there shall be written
            if self.images:
                self._close({"clipzs": __version__, **facts})
            else:
                self._abandon()
            self.interrupted = self.interrupted or interrupts.signal

    def _batches(self) -> Generator[Sequence[Result], None, None]:
        while batch := list(islice(self._results, self._at_once)):
            yield batch


class Run(Passage):
    """Classify a selection.

    Attributes:
        earlier: what an earlier run has left in the output, if this one goes on from there.
    """

    def __init__(
        self,
        classifier: Classifier,
        selection: Selection,
        sinks: Sequence[Sink],
        *,
        earlier: Earlier | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(sinks)
        self.classifier = classifier
        self.selection = selection
        self.earlier = earlier
        self.log = log
        if log is not None:
            check_writable(log)
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def __call__(self, advance: Callable[[int], None], put_off: Callable[[], None]) -> None:
        """Run to the end, to Ctrl-C (or its like), or to a failure; what was computed is written in every case.

        Args:
            advance: called with the number of images of each batch, before they are written.
            put_off: called from a signal handler when Ctrl-C has to wait for the batch under way.

        Raises:
            ClipzsError: what made it fail.
        """
        wanted = self.selection.find()
        if self.earlier is not None:
            wanted = self.earlier.left(wanted)
        with Interrupts(put_off) as interrupts:
            try:
                running = self.classifier.batches(wanted, live=self.selection.live, begun=interrupts.begin)
                self._pass(running, interrupts, advance)
            except KeyboardInterrupt:
                self.interrupted = interrupts.signal or signal.SIGINT
            except ClipzsError as error:
                if self.images and self.again and (isinstance(error, OutputError) or not error.hint):
                    error.hint = f"when that is mended, {self.again}"
                interrupts.begin()
                if self.images and not isinstance(error, OutputError):
                    self._finish(str(error))
                raise
            interrupts.begin()  # what is there shall be written
            if self.images:
                self._finish(None)
            else:
                self._abandon()
            self.interrupted = self.interrupted or interrupts.signal

    def _finish(self, failure: str | None) -> None:
        facts = self._facts(failure)
        self._close(facts)
        if self.log is not None:
            save(self.log, (json_text({**facts, **self._details()}) + "\n").encode())
        logger.debug("%d images in %.1f s on %s", self.images, facts["seconds"], facts["device"])

    def _facts(self, failure: str | None) -> dict[str, Any]:
        classifier = self.classifier
        read_any = self.images > self.errors
        return {
            "clipzs": __version__,
            "model": classifier.model.name,
            "config": classifier.config,
            "score": "multi" if classifier.options.multi else classifier.options.score,
            "device": classifier.encoder.device if read_any else None,
            "engine": classifier.encoder.engine if read_any else None,
            "precision": classifier.encoder.precision if read_any else None,
            "images": self.images,
            "errors": self.errors,
            "interrupted": self.interrupted is not None,
            "failure": failure,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 3),
        }

    def _details(self) -> dict[str, Any]:
        classifier = self.classifier
        return {
            **made_with(classifier),
            "done_before": self.earlier.skipped if self.earlier else 0,
            "prompts_encoded": classifier.prompts_encoded,
            "logit_scale": classifier.logit_scale if self.images > self.errors else None,
            "versions": {"python": platform.python_version(), **_versions()},
            "platform": platform.platform(),
        }


def made_with(classifier: Classifier) -> dict[str, Any]:
    """The model and the words that determine the numbers, as JSON, for people; loads no weights."""
    return {
        "weights": {"source": classifier.model.source, "sha256": classifier.model.fingerprint},
        "preprocess": vars(classifier.model.preprocess),
        "labels": [
            {"label": label.name, "group": written(label.groups), "prompts": list(prompts)}
            for label, prompts in zip(classifier.labels, classifier.prompts, strict=True)
        ],
        "head": classifier.head.as_json() if classifier.head else None,
        "settings": {option: words for option, _, words in classifier.configuration.settings},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "open_clip_torch", "openvino", "timm", "transformers", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
