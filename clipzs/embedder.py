"""A model and its caches: texts to embeddings, images to embeddings. What to do with them is others' business."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipzs import cachefolder, defaults, sizes
from clipzs.devices import chosen_precision, device_and_reason
from clipzs.embed import label_embeddings
from clipzs.encoder import Computes, Progress
from clipzs.engine import Engine
from clipzs.errors import ModelError, UsageProblem
from clipzs.filehashes import FileHashes
from clipzs.imagecache import ImageCache
from clipzs.options import Options
from clipzs.pipeline import Batch, ImageLike, Pipeline
from clipzs.resolve import ModelSpec, in_language, resolve, resolve_config, resolve_default
from clipzs.score import Array
from clipzs.store import LabelEmbedding, LabelStore

if TYPE_CHECKING:
    from clipzs.encoder import Pixels

log = logging.getLogger("clipzs")


class Embedder:
    """What a model says of texts and images, found in the caches or computed.

    Nothing is looked for or loaded before it is needed.

    Attributes:
        options: which model, where it computes, and how images are read.
        prompts_encoded: how many different prompts of labels went through the text tower so far.
    """

    def __init__(
        self, options: Options, *, progress: Progress | None = None, compiling: Progress | None = None
    ) -> None:
        """Set up.

        Args:
            options: checked ones.
            progress: called with (done, total) while prompts are encoded.
            compiling: called with (done, total) while the model is compiled for this CPU.
        """
        self.options = options
        self.prompts_encoded = 0
        self._started = time.time()
        self._progress = progress
        self._compiling = compiling

    @cached_property
    def model(self) -> ModelSpec:
        """The model, found on this machine or downloaded.

        Raises:
            UnknownModel, ModelUnavailable, ModelError: as `resolve` says.
        """
        options, reason = self.options, None
        if options.model_config is not None:
            spec = resolve_config(options.model_config, options.pretrained, quick_gelu=options.quick_gelu)
        elif options.model is None:
            spec, reason = resolve_default()
        else:
            spec = resolve(
                options.model, options.pretrained, quick_gelu=options.quick_gelu, allow_pickle=options.allow_pickle
            )
        if reason:
            log.warning(reason)
        if options.language is not None:
            spec = in_language(spec, options.language)
        return replace(spec, sha256=FileHashes(self.cache_dir).sha256)

    @property
    def encoder(self) -> Computes:
        """How the model computes.

        Raises:
            DeviceError: a device or precision this machine lacks.
            UsageProblem: an option that is for other devices.
        """
        return self._engine

    @cached_property
    def _engine(self) -> Engine:
        """The model itself; its towers are loaded as they are needed. Errors as of `encoder`."""
        options = self.options
        device, reason = device_and_reason(options.device)
        log.debug("device %s: %s", device, reason)
        if options.compile and not device.startswith("cuda"):
            raise UsageProblem(
                "--compile is for GPUs: here it takes minutes and gains nothing",
                hint="leave it out; on a CPU the model is compiled with OpenVINO by itself",
            )
        return Engine(
            self.model,
            digest=self.model.digest,
            engine=options.engine,
            device=device,
            precision=chosen_precision(options.precision, device),
            cache_dir=self.cache_dir,
            cache_limit=self._cache_limit,
            torch_compile=options.compile,
            progress=self._compiling,
        )

    def compile(self) -> None:
        """Compile the model for this CPU so that later runs start at once and need no torch, unless that is done.

        Does nothing before the first image was embedded, on a GPU, or where the model cannot be compiled.
        """
        self._engine.compile()
        self._prune()

    def labels(self, prompts: Sequence[Sequence[str]], weights: Sequence[Sequence[float]] = ()) -> list[LabelEmbedding]:
        """The averaged embedding of each label.

        Args:
            prompts: the texts of each of the c labels, as `prompts.expand` gives them.
            weights: as `label_embeddings` takes them.

        Raises:
            ModelError: the model gives numbers that are not finite.
        """
        embedded, encoded = self._averaged(prompts, weights)
        self.prompts_encoded += encoded
        return embedded

    def texts(self, texts: Sequence[str]) -> Array:
        """The embedding of each of n texts by itself: float32 [n, d], rows of length 1."""
        return np.stack([one.vector for one in self._averaged([[text] for text in texts])[0]])

    def _averaged(
        self, prompts: Sequence[Sequence[str]], weights: Sequence[Sequence[float]] = ()
    ) -> tuple[list[LabelEmbedding], int]:
        """As `labels`, and how many prompts had to be encoded."""
        store = LabelStore(self.cache_dir, self.model.name, self.model.digest)
        embedded, encoded = label_embeddings(
            prompts, self._engine, store, digest=self.model.digest, weights=weights, progress=self._progress
        )
        self.finite(np.stack([one.vector for one in embedded]))
        return embedded, encoded

    def batches(
        self,
        images: Iterable[ImageLike],
        *,
        live: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> Generator[Batch, None, None]:
        """Embeddings of images, a batch at a time, in order.

        Args:
            images: paths, findings, files in memory, PIL images or arrays, as `Classifier.classify` takes them.
            live: hand over what is there instead of filling batches.
            before: called when a batch is about to go into the model, whose images are expected by then.

        Raises:
            ModelError: the model gives numbers that are not finite.
        """
        try:
            with closing(self._pipeline(before)(images, live=live)) as batches:
                yield from batches
        finally:
            self._prune()

    @contextmanager
    def pipeline(self, before: Callable[[], object] = lambda: None) -> Generator[Pipeline, None, None]:
        """What embeds single images as they come; `before` as of `batches`, whose errors it has."""
        try:
            with self._pipeline(before) as pipeline:
                yield pipeline
        finally:
            self._prune()

    def _pipeline(self, before: Callable[[], object]) -> Pipeline:
        options = self.options
        return Pipeline(
            partial(self._encode, before),
            self.model.preprocess,
            self._image_cache(),
            size=options.batch_size,
            max_megapixels=options.max_megapixels,
            exact=options.exact_decode,
            timeout=options.image_timeout,
        )

    def finite(self, numbers: Array) -> Array:
        """The numbers themselves.

        Raises:
            ModelError: some are not finite.
        """
        if not np.isfinite(numbers).all():
            raise ModelError(
                f"{self.model.name} gives numbers that are not finite", hint="try --precision fp32, or other weights"
            )
        return numbers

    def _encode(self, before: Callable[[], object], pixels: "Pixels") -> Array:
        """uint8 [b, height, width, 3] → float32 [b, d]."""
        self._engine.expect_images()
        before()
        return self.finite(self._engine.encode_images(pixels))

    def _image_cache(self) -> ImageCache | None:
        if self.cache_dir is None or not self.options.image_cache:
            return None
        model, exact = self.model, self.options.exact_decode
        return ImageCache(
            self.cache_dir,
            model.name,
            model.digest,
            precision=self.encoder.precision,
            exact=exact,
            written=self._prune,
        )

    @property
    def cache_dir(self) -> Path | None:
        """The folder of the cache; None where nothing is kept."""
        return (self.options.cache_dir or defaults.cache_dir()) if self.options.cache else None

    @property
    def _cache_limit(self) -> int:
        return sizes.parsed(self.options.cache_limit)

    def _prune(self) -> None:
        if self.cache_dir is not None:
            cachefolder.prune(self.cache_dir, self._cache_limit, since=self._started)
