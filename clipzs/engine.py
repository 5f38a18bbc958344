"""Which of its two forms a model runs in: torch, or the towers compiled for this CPU.

The first images are answered by torch. Then the model is compiled, once, and the rest of the run and all
later ones use what was compiled.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from clipzs.agreement import VerifiedEncoder
from clipzs.compiled import CompiledModel, CompiledProblem, available
from clipzs.devices import released
from clipzs.encoder import Encoder, Pixels, Progress, Tokens
from clipzs.errors import ModelError
from clipzs.memory import Halving
from clipzs.modelspec import ModelSpec
from clipzs.score import Array

log = logging.getLogger("clipzs")

PROOF_IMAGES = 4  # real ones, that a compiled model is tried on besides noise

Answer = TypeVar("Answer")


class Engine:
    """An `Encoder` that starts as whatever is at hand and becomes the fast one as soon as that costs no answer.

    Batches that the memory is not enough for are computed in smaller ones.

    Attributes:
        device: where it computes.
        precision: what in.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        digest: str,
        engine: str,
        device: str,
        precision: str,
        cache_dir: Path | None,
        cache_limit: int = 0,
        torch_compile: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            spec: the model.
            digest: of all that determines its embeddings.
            engine: "auto", "torch" or "openvino"; "openvino" accepts nothing else.
            device: as `devices.chosen_device` gives it.
            precision: as `devices.chosen_precision` gives it.
            cache_dir: where compiled models are kept; None keeps none, which leaves torch.
            cache_limit: bytes that all of it may have; 0 is without limit.
            torch_compile: let torch compile its towers, on a GPU.
            progress: called with (done, total) while the model is compiled.
        """
        self.device = device
        self.precision = precision
        self._spec = spec
        self._strict = engine == "openvino"
        self._torch_compile = torch_compile
        self._progress = progress
        possible = engine != "torch" and device == "cpu" and precision in ("fp32", "bf16") and available()
        self._place = CompiledModel(cache_dir, spec, digest, precision) if possible and cache_dir else None
        self._cache_limit = cache_limit
        self._encoder: Encoder | None = None
        self._used = False
        self._sample: Pixels | None = None
        self._images = Halving("images", partial(released, device))
        self._texts = Halving("texts", partial(released, device))

    @property
    def engine(self) -> str:
        """What computes now: "torch" or "openvino"."""
        return self._now.engine

    @property
    def logit_scale(self) -> float:
        """exp of the learned log scale; unitless."""
        return self._now.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """The learned bias, of models trained with a sigmoid."""
        return self._now.logit_bias

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts → token ids; needs no tower."""
        return self._through(lambda encoder: encoder.tokenize(texts))

    def encode_texts(self, tokens: Tokens) -> Array:
        """Token ids → float32 [n, d], rows of length 1."""
        self._used = True
        return self._texts(
            lambda rows: self._through(lambda encoder: encoder.encode_texts(tokens[rows])), len(tokens.lengths)
        )

    def encode_images(self, pixels: Pixels) -> Array:
        """uint8 [b, height, width, 3] → float32 [b, d], rows of length 1."""
        if self._sample is not None:
            self.compile()  # one batch was answered, another is here: from now on speed counts
        vectors = self._images(
            lambda rows: self._through(lambda encoder: encoder.encode_images(pixels[rows])), len(pixels)
        )
        self._used = True
        if self._sample is None:
            self._sample = pixels[:PROOF_IMAGES].copy()
        return vectors

    def expect_images(self) -> None:
        """Images will follow: what can be loaded meanwhile is. Compiles nothing yet."""
        if not self._strict:
            self._now.expect_images()

    def compile(self) -> None:
        """Compile the model for later, unless that is done, is impossible, or nothing was encoded."""
        if self._place is None or not self._used or self.engine != "torch":
            return
        try:
            self._encoder = self._made(self._place)
        except CompiledProblem as problem:
            self._stay(problem)

    @property
    def _now(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._chosen()
        return self._encoder

    def _chosen(self) -> Encoder:
        try:
            if self._place is not None:
                found = self._place.find()
                if found is not None:
                    return found
                if self._strict:
                    return self._made(self._place)
            elif self._strict:
                raise CompiledProblem("OpenVINO needs a CPU, fp32 or bf16, the cache, and its package")
        except CompiledProblem as problem:
            self._stay(problem)
        return self._torch()

    def _made(self, place: CompiledModel) -> Encoder:
        from clipzs.conversion import compile_model

        log.debug("compiling %s for this CPU, once", self._spec.name)
        try:
            compile_model(place, limit=self._cache_limit, sample=self._sample, progress=self._progress)
        except OSError as error:
            raise CompiledProblem(f"{place.folder} cannot be written: {error.strerror or error}") from error
        except (ModelError, MemoryError) as error:  # what all labels and images so far could do without
            raise CompiledProblem(str(error) or "not enough memory to compile it") from error
        made = place.find()
        if made is None:
            raise CompiledProblem(f"{place.folder} is gone")
        return made

    def _stay(self, problem: CompiledProblem) -> None:
        """Use torch for good, and say why to whoever wants to know."""
        if self._strict:
            raise ModelError(str(problem), hint="--engine auto takes torch where OpenVINO cannot be used") from problem
        log.debug("%s stays with torch: %s", self._spec.name, problem)
        self._place = None

    def _torch(self) -> Encoder:
        from clipzs.encoders import encoder_for

        encoder = encoder_for(
            self._spec, device=self.device, precision=self.precision, torch_compile=self._torch_compile
        )
        if self.device != "mps":
            return encoder
        on_cpu = partial(encoder_for, self._spec, device="cpu", precision="fp32")
        return VerifiedEncoder(encoder, on_cpu, size=self._spec.preprocess.size)

    def _through(self, work: Callable[[Encoder], Answer]) -> Answer:
        try:
            return work(self._now)
        except CompiledProblem as problem:
            log.debug("%s; it will be made anew", problem)
            if self._place is not None:
                self._place.discard()
            self._encoder = self._torch()
            return work(self._encoder)
