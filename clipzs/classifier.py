"""The whole job as one object: labels and templates to embeddings, images to embeddings, both to results."""

import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clipzs import defaults, labelchecks, labelfiles, labels, prompts, templates
from clipzs.configuration import Configuration
from clipzs.devices import chosen_precision, device_and_reason
from clipzs.embed import label_embeddings
from clipzs.encoder import Progress
from clipzs.engine import Engine
from clipzs.errors import ModelError, UsageProblem
from clipzs.filehashes import FileHashes
from clipzs.imagecache import ImageCache
from clipzs.options import Options, checked, from_settings
from clipzs.paths import Found
from clipzs.pipeline import Batch, ImageLike, Pipeline
from clipzs.resolve import ModelSpec, in_language, resolve, resolve_config, resolve_default
from clipzs.results import Result, Score
from clipzs.score import Array, ranked, scores, sum_groups
from clipzs.store import LabelStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clipzs.encoder import Pixels

log = logging.getLogger("clipzs")

SCORED_AT_ONCE = 1 << 20  # scores computed together: enough for a fast product, few enough for the processor's cache


class Classifier:
    """Zero-shot image classification among labels given in words.

    >>> from clipzs import Classifier
    >>> classifier = Classifier(["cat", "rocket", "temple"], model="tiny")  # doctest: +SKIP
    >>> for result in classifier.classify(["examples/cat.jpg"]):  # doctest: +SKIP
    ...     print(result.path, result.label, result.score)

    Labels, templates and names are checked at once; weights are loaded when the first image needs them.
    """

    def __init__(
        self,
        labels: Iterable[str | labels.Label] | Path,
        *,
        options: Options | None = None,
        progress: Progress | None = None,
        compiling: Progress | None = None,
        **settings: Any,
    ) -> None:
        """Set up.

        Args:
            labels: words, `Label`s with aliases, prompts or groups, or the path of a labels file.
            options: how to classify.
            progress: called with (done, total) while prompts are encoded.
            compiling: called with (done, total) while the model is compiled for this CPU.
            settings: fields of `Options`, in place of `options`. `templates` may also be one
                string, and may hold templates ("a photo of a <>") as well as names of sets.

        Raises:
            LabelsError: too few labels, or an empty or duplicate one.
            TemplatesError: an unknown or malformed template set.
            UsageProblem: options that contradict each other.
        """
        if options is not None and settings:
            raise TypeError(f"options are given, and apart from them: {', '.join(settings)}")
        self.options = checked(options or from_settings(settings))
        self.labels = _labels(labels, least=2 if self.options.score == "softmax" else 1)
        if self.options.by_group:
            _check_groups(self.labels)
        self._progress = progress
        self._compiling = compiling
        chosen = templates.chosen(
            self.options.templates, self.options.template, self.options.context, self.options.prompts_dir
        )
        self.prompts = [prompts.expand(label, chosen) for label in self.labels]
        self.prompts_encoded = 0

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
        return replace(spec, sha256=FileHashes(self._cache_dir).sha256)

    @cached_property
    def configuration(self) -> Configuration:
        """Everything that determines the numbers."""
        named = ((label.name, label.group, texts) for label, texts in zip(self.labels, self.prompts, strict=True))
        return Configuration(
            model=self.model.name,
            digest=self.model.digest,
            labels=tuple(named),
            precision=self.encoder.precision,
            exact_decode=self.options.exact_decode,
            score=self.options.score,
            by_group=self.options.by_group,
        )

    @property
    def config(self) -> str:
        """Short hash of everything that determines the numbers; results that share it can be compared."""
        return self.configuration.hash

    @property
    def scores_kept(self) -> int:
        """How many labels, or groups, a result has scores of."""
        names = len(self.configuration.names)
        return min(self.options.top_k or names, names)

    @cached_property
    def encoder(self) -> Engine:
        """The model itself; its towers are loaded as they are needed.

        Raises:
            DeviceError: a device or precision this machine lacks.
            UsageProblem: an option that is for other devices.
        """
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
            cache_dir=self._cache_dir,
            torch_compile=options.compile,
            progress=self._compiling,
        )

    def compile(self) -> None:
        """Compile the model for this CPU so that later runs start at once and need no torch, unless that is done.

        Does nothing before the first image was classified, on a GPU, or where the model cannot be compiled.
        """
        self.encoder.compile()

    @property
    def _cache_dir(self) -> Path | None:
        return (self.options.cache_dir or defaults.cache_dir()) if self.options.cache else None

    @cached_property
    def label_vectors(self) -> Array:
        """float32 [c, d], rows of length 1, one per label.

        Logs a warning for labels the model cannot read or tell apart, and for prompts it must cut.
        """
        if self.options.score == "sigmoid" and self.encoder.logit_bias is None:
            raise UsageProblem(
                f"{self.model.name} was not trained for sigmoid scores (it has no logit bias)",
                hint="use --score softmax, or a SigLIP-type model such as --model multilingual",
            )
        store = LabelStore(self._cache_dir, self.model.name, self.model.digest)
        embedded, self.prompts_encoded = label_embeddings(
            self.prompts, self.encoder, store, digest=self.model.digest, progress=self._progress
        )
        names, alike = [label.name for label in self.labels], defaultdict(list)
        for name, one in zip(names, embedded, strict=True):
            alike[one.tokens].append(name)
        for problem in (
            labelchecks.unreadable([*zip(names, self.prompts, strict=True)], self.model),
            labelchecks.cut([(name, one.longest) for name, one in zip(names, embedded, strict=True)], self.model),
            labelchecks.alike(alike.values()),
        ):
            if problem:
                log.warning("%s", problem)
        return self._finite(np.stack([one.vector for one in embedded]))

    @cached_property
    def _label_vectors64(self) -> "NDArray[np.float64]":
        return self.label_vectors.astype(np.float64)

    def classify(self, images: Iterable[ImageLike] | ImageLike) -> Iterator[Result]:
        """One result per image, in order, as batches are done.

        Args:
            images: paths, PIL images, or arrays [height, width], [height, width, 3] or
                [height, width, 4] (uint8, or float in [0, 1]); or one of these.

        Yields:
            Results. An image that cannot be read has `error` set and costs no other anything.
        """
        if isinstance(images, (str, PathLike, Image.Image, np.ndarray, Found)):
            images = [images]
        for batch in self.batches(images):
            yield from batch

    def batches(
        self, images: Iterable[ImageLike], *, live: bool = False, begun: Callable[[], None] = lambda: None
    ) -> Generator[list[Result], None, None]:
        """As `classify`, a batch at a time.

        Args:
            images: as of `classify`.
            live: hand over what is there instead of filling batches.
            begun: called when a batch goes into the model, which may take a while.
        """
        options = self.options
        pipeline = Pipeline(
            partial(self._encode, begun),
            self.model.preprocess,
            self._image_cache(),
            size=options.batch_size,
            max_megapixels=options.max_megapixels,
            exact=options.exact_decode,
            timeout=options.image_timeout,
        )
        with closing(pipeline(images, live=live)) as embedded:
            for batch in embedded:
                yield self._results(batch)

    def _image_cache(self) -> ImageCache | None:
        if self._cache_dir is None or not self.options.image_cache:
            return None
        model, exact = self.model, self.options.exact_decode
        return ImageCache(self._cache_dir, model.name, model.digest, precision=self.encoder.precision, exact=exact)

    def _encode(self, begun: Callable[[], None], pixels: "Pixels") -> Array:
        """uint8 [b, height, width, 3] → float32 [b, d]."""
        self.encoder.expect_images()
        _ = self.label_vectors  # labels that cannot be had cost no image pass
        begun()
        return self._finite(self.encoder.encode_images(pixels))

    def _results(self, batch: Batch) -> list[Result]:
        rows = iter(self._scored(batch.vectors) if len(batch.vectors) else ())
        result = partial(Result, model=self.model.name, config=self.config)
        return [
            result(name, scores=next(rows)) if error is None else result(name, error=error)
            for name, error in zip(batch.names, batch.errors, strict=True)
        ]

    def _finite(self, numbers: Array) -> Array:
        if not np.isfinite(numbers).all():
            raise ModelError(
                f"{self.model.name} gives numbers that are not finite", hint="try --precision fp32, or other weights"
            )
        return numbers

    def _scored(self, embedded: Array) -> Iterator[tuple[Score, ...]]:
        """float32 [n, d] → the kept scores of each image, best first; ties in label order."""
        labels = self._label_vectors64
        kind, scale, bias = self.options.score, self.encoder.logit_scale, self.encoder.logit_bias
        rows = max(1, SCORED_AT_ONCE // len(labels))
        for start in range(0, len(embedded), rows):
            table = self._finite(scores(embedded[start : start + rows], labels, kind=kind, scale=scale, bias=bias))
            names = [label.name for label in self.labels]
            if self.options.by_group:
                table, names = sum_groups(table, [label.group or label.name for label in self.labels])
            columns = ranked(table, self.options.top_k)
            kept = np.take_along_axis(table, columns, axis=1)
            for some, numbers in zip(columns.tolist(), kept.tolist(), strict=True):
                yield tuple(Score(names[c], number) for c, number in zip(some, numbers, strict=True))


def _check_groups(given: Sequence[labels.Label]) -> None:
    if not any(label.group for label in given):
        raise UsageProblem("--by-group needs labels with a group", hint="give them `group:` in a YAML labels file")
    names = {label.group or label.name for label in given}
    if len(names) == 1:
        raise UsageProblem(
            f"all labels are in one group: {names.pop()}", hint="its probability is always 1: leave --by-group out"
        )


def _labels(given: Iterable[str | labels.Label] | Path, *, least: int) -> tuple[labels.Label, ...]:
    if isinstance(given, Path):
        return labels.checked(labelfiles.read(given), least=least)
    if isinstance(given, str):
        given = labels.split_commas(given)
    return labels.checked([_label(one) for one in given], least=least)


def _label(given: str | labels.Label) -> labels.Label:
    if isinstance(given, labels.Label):
        return given
    if not isinstance(given, str):
        raise TypeError(f"a label is text or a Label, not {given!r}")
    return labels.Label(given.strip())
