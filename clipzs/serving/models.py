"""A model that stays loaded: its images in batches, and the classifiers that it was asked for."""

import asyncio
import base64
import binascii
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from clipzs.classifier import Classifier
from clipzs.embedder import Embedder
from clipzs.encoder import Progress
from clipzs.images import Blob
from clipzs.labels import Label
from clipzs.options import Options
from clipzs.pipeline import Batch, Pipeline, Prepared
from clipzs.results import Result
from clipzs.score import Array
from clipzs.serving.batching import ModelThread
from clipzs.serving.measures import Measures
from clipzs.store import LabelEmbedding
from clipzs.stream import THREADS

log = logging.getLogger("clipzs")

KEPT_BYTES = 30_000_000  # of classifiers that are ready, about
_USUAL_BYTES = 20_000  # of a classifier beside its prompts and vectors
_UNIT = 1e-3  # how far the length of an embedding that a client gives back may be from 1

Answer = TypeVar("Answer")


class Unwanted(Exception):
    """Nobody waits for it any more."""


@dataclass(frozen=True)
class Given:
    """One image of a request.

    Attributes:
        name: how its record names it.
        data: the encoded image, or its base64.
        embedding: in place of it, the base64 of its embedding as the service gave it: little-endian float32.
    """

    name: str
    data: bytes | str = field(default=b"", repr=False)
    embedding: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Ready:
    """A classifier whose labels are embedded, and what it warned of."""

    classifier: Classifier
    warnings: tuple[str, ...]

    def results(self, images: Sequence[Prepared]) -> list[Result]:
        """Of images that were embedded or could not be read, in order."""
        vectors = [one.vector for one in images if one.vector is not None]
        return self.classifier.results(
            Batch(
                [one.name for one in images],
                [one.error for one in images],
                np.stack(vectors) if vectors else np.empty((0, 0), np.float32),
            )
        )

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        prompts = sum(len(text) for texts in self.classifier.prompts for text in texts)
        width = int(self.classifier.model.config["embed_dim"])
        return _USUAL_BYTES + 2 * prompts + 8 * width * len(self.classifier.labels)


@dataclass
class _Making:
    """A classifier on its way, and how many requests wait for it."""

    task: "asyncio.Task[Ready]"
    waiting: int = 0


class _Warnings(logging.Filter):
    """Keeps what is logged while a client's labels are looked at from the log: it is for that client."""

    def __init__(self) -> None:
        super().__init__()
        self._of_thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        kept: list[str] | None = getattr(self._of_thread, "kept", None)
        if kept is None or record.levelno < logging.WARNING:
            return True
        kept.append(record.getMessage())
        return False

    @contextmanager
    def kept(self) -> Iterator[list[str]]:
        kept: list[str] = []
        self._of_thread.kept = kept
        try:
            yield kept
        finally:
            self._of_thread.kept = None


_WARNINGS = _Warnings()


class ServedModel:
    """One model of the service. Its methods that are coroutines belong to the event loop.

    Attributes:
        id: as it was named at the start, and as requests name it.
        options: which model, and how images are read and classified unless a request says otherwise.
        embedder: the model.
    """

    def __init__(self, id_: str, options: Options, measures: Measures, *, compiling: Progress | None = None) -> None:
        """Set up; nothing is loaded yet."""
        self.id = id_
        self.options = options
        self.embedder = Embedder(options, progress=self._between, compiling=compiling)
        self._measures = measures
        self._ready: OrderedDict[Any, Ready] = OrderedDict()
        self._making: dict[Any, _Making] = {}
        self._bytes = 0
        self._wanted: threading.Event | None = None  # whether the texts that are being encoded still are
        self._open = ExitStack()

    def start(self, labels: Sequence[Label] = ()) -> None:
        """Load the model, and compile it if that is still to be done.

        Args:
            labels: that will be asked about; then they are ready, and what is to be said of them is said.

        Raises:
            ClipzsError: as of `Embedder.model` and `Embedder.encoder`, or labels that cannot be used.
        """
        log.addFilter(_WARNINGS)
        embedder = self.embedder
        name = embedder.model.name
        pipeline = self._open.enter_context(embedder.pipeline(self._begun))
        self._pipeline: Pipeline = pipeline
        self._decoders = ThreadPoolExecutor(THREADS, thread_name_prefix="clipzs-decode")
        self.thread = ModelThread(self._embedded, size=self.options.batch_size, name=name)
        self._begun_at = 0.0
        noise = np.random.default_rng(0).integers(0, 256, (*embedder.model.preprocess.size, 3), np.uint8)
        self.thread.call(lambda: self._warmed_up(noise)).result()
        if labels:
            ready = self.thread.call(partial(self._built, labels, self.options)).result()
            for warning in ready.warnings:
                log.warning("%s", warning)
            self._keep((tuple(labels), self.options), ready)

    def close(self) -> None:
        """Finish what was begun, and keep what is to be kept."""
        self.thread.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)  # what is still decoded, nobody waits for
        self._open.close()

    def _warmed_up(self, noise: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """By torch if it is new; then, once it is compiled, by what was compiled."""
        for _ in range(2):
            self._pipeline.embed([self._pipeline.prepare(noise, "noise")])
            self.embedder.compile()

    def _begun(self) -> None:
        self._begun_at = time.perf_counter()

    def _embedded(self, some: Sequence[Prepared]) -> None:
        fresh = sum(one.pixels is not None for one in some)
        self._pipeline.embed(some)
        if fresh:
            self._measures.batches.labels(self.id).observe(fresh)
            self._measures.model_seconds.labels(self.id, "image").observe(time.perf_counter() - self._begun_at)

    def _between(self, done: int, total: int) -> None:
        """Between two batches of texts: let images in, and stop if nobody waits for the texts any more."""
        if self._wanted is not None and not self._wanted.is_set():
            raise Unwanted
        if done < total:
            self.thread.between()

    async def embedded(self, images: Sequence[Given]) -> list[Prepared]:
        """Each with its embedding, or why it has none; in order. If the caller is cancelled, what waits is dropped.

        Raises:
            ClipzsError: the model failed.
        """
        futures = [self.submit(image) for image in images]
        try:
            return [await asyncio.wrap_future(future) for future in futures]
        finally:
            for future in futures:
                future.cancel()

    async def of_pixels(self, pixels: "np.ndarray[Any, np.dtype[np.uint8]]") -> Array:
        """uint8 [n, height, width, 3], ready for the model → float32 [n, d]; in one batch, nothing kept.

        Raises:
            ClipzsError: the model failed.
        """
        future = self.thread.embed_together([Prepared("", pixels=one) for one in pixels])
        self._measures.images.labels(self.id, "embedded").inc(len(pixels))
        try:
            some = await asyncio.wrap_future(future)
        finally:
            future.cancel()
        return np.stack([one.vector for one in some if one.vector is not None])

    def submit(self, image: Given) -> "Future[Prepared]":
        """Have an image decoded and embedded; a future that is cancelled in time costs neither."""
        done: Future[Prepared] = Future()
        self._decoders.submit(self._prepare, image, done)
        return done

    def _prepare(self, image: Given, done: "Future[Prepared]") -> None:
        if done.cancelled():
            return
        try:
            prepared = self._prepared(image)
        except BaseException as error:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)
            return
        fresh = prepared.pixels is not None
        outcome = "embedded" if fresh else "unreadable" if prepared.error is not None else "known"
        if fresh:
            self.thread.embed(prepared, done)
        elif done.set_running_or_notify_cancel():
            done.set_result(prepared)
        self._measures.images.labels(self.id, outcome).inc()

    def _prepared(self, image: Given) -> Prepared:
        if image.embedding is not None:
            return self._given_back(image.name, image.embedding)
        data = image.data
        if isinstance(data, str):
            try:
                data = from_base64(data)
            except ValueError as problem:
                return Prepared(image.name, error=str(problem))
        return self._pipeline.prepare(Blob(image.name, data), image.name)

    def _given_back(self, name: str, embedding: str) -> Prepared:
        """An embedding in place of an image."""
        try:
            numbers = from_base64(embedding)
        except ValueError as problem:
            return Prepared(name, error=str(problem))
        width = int(self.embedder.model.config["embed_dim"])
        if len(numbers) != 4 * width:
            return Prepared(
                name, error=f"an embedding of {len(numbers)} bytes, and those of {self.id} have {4 * width}"
            )
        vector = np.frombuffer(numbers, "<f4").astype(np.float32)
        with np.errstate(all="ignore"):
            length = float(np.linalg.norm(vector.astype(np.float64)))
        if not abs(length - 1) <= _UNIT:
            return Prepared(name, error="an embedding whose length is not 1")
        return Prepared(name, vector=vector)

    async def call(self, work: Callable[[], Answer]) -> Answer:
        """Run something on the model's thread; images of others go on between two batches of texts.

        If the caller is cancelled, so is the encoding of texts, and what has not begun.
        """
        wanted = threading.Event()
        wanted.set()
        future = self.thread.call(partial(self._watched, wanted, work))
        try:
            return await asyncio.wrap_future(future)
        finally:
            wanted.clear()
            future.cancel()

    def _watched(self, wanted: threading.Event, work: Callable[[], Answer]) -> Answer:
        before, begun = self.embedder.prompts_encoded, time.perf_counter()
        self._wanted = wanted
        try:
            return work()
        finally:
            self._wanted = None
            encoded = self.embedder.prompts_encoded - before
            if encoded:
                self._measures.prompts.labels(self.id).inc(encoded)
                self._measures.model_seconds.labels(self.id, "text").observe(time.perf_counter() - begun)
                self.embedder.compile()  # has nothing left to compile, and keeps the cache within its limit

    async def labels(
        self, prompts: Sequence[Sequence[str]], weights: Sequence[Sequence[float]]
    ) -> tuple[list[LabelEmbedding], int]:
        """As `Embedder.labels`, and how many prompts had to be encoded."""

        def work() -> tuple[list[LabelEmbedding], int]:
            before = self.embedder.prompts_encoded
            return self.embedder.labels(prompts, weights), self.embedder.prompts_encoded - before

        return await self.call(work)

    def has(self, labels: Sequence[Label], options: Options) -> bool:
        """Whether a classifier is ready."""
        return (tuple(labels), options) in self._ready

    async def classifier(self, labels: Sequence[Label], options: Options) -> Ready:
        """A classifier that is ready; those used last are kept.

        Args:
            labels: what to choose among.
            options: checked ones, of this model.

        Raises:
            ClipzsError: labels or options that do not go together.
        """
        key = (tuple(labels), options)
        ready = self._ready.get(key)
        if ready is not None:
            self._ready.move_to_end(key)
            return ready
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(asyncio.ensure_future(self._made(labels, options)))
            making.task.add_done_callback(partial(self._end_making, key))
        making.waiting += 1
        try:
            return await asyncio.shield(making.task)
        finally:
            making.waiting -= 1
            if not making.waiting and not making.task.done():
                making.task.cancel()
                self._making.pop(key, None)

    async def _made(self, labels: Sequence[Label], options: Options) -> Ready:
        return await self.call(partial(self._built, labels, options))

    def _built(self, labels: Sequence[Label], options: Options) -> Ready:
        """On the model's thread."""
        with _WARNINGS.kept() as warnings:
            classifier = Classifier(labels, options=options, embedder=self.embedder)
            _ = classifier.scorer, classifier.config
        return Ready(classifier, tuple(dict.fromkeys(warnings)))

    def _end_making(self, key: Any, task: "asyncio.Task[Ready]") -> None:
        making = self._making.get(key)
        if making is not None and making.task is task:
            del self._making[key]
        if not task.cancelled() and task.exception() is None:
            self._keep(key, task.result())

    def _keep(self, key: Any, ready: Ready) -> None:
        self._ready[key] = ready
        self._bytes += ready.size
        while self._bytes > KEPT_BYTES and len(self._ready) > 1:
            _, oldest = self._ready.popitem(last=False)
            self._bytes -= oldest.size
        self._measures.classifiers.labels(self.id).set(len(self._ready))

    def as_json(self) -> dict[str, Any]:
        """What it is, for `/v1/models`."""
        spec, encoder = self.embedder.model, self.embedder.encoder
        return {
            "id": self.id,
            "name": spec.name,
            "digest": spec.digest,
            "fingerprint": spec.fingerprint,
            "precision": encoder.precision,
            "device": encoder.device,
            "engine": encoder.engine,
            "logit_scale": encoder.logit_scale,
            "logit_bias": encoder.logit_bias,
            "embedding_size": int(spec.config["embed_dim"]),
            "spec": {
                "config": dict(spec.config),
                "preprocess": vars(spec.preprocess),
                "backend": spec.backend,
                "languages": list(spec.languages),
                "family": spec.family,
                "licence": vars(spec.licence) if spec.licence else None,
                "source": spec.source,
            },
        }


def from_base64(text: str) -> bytes:
    """What the text holds; a `data:` URL is read for what is in it.

    Raises:
        ValueError: it is something else; in words.
    """
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return binascii.a2b_base64("".join(text.split()), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64; paths and addresses are not opened here, send the file itself") from error


def to_base64(vector: Array) -> str:
    """float32 [d], little-endian, in base64."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
