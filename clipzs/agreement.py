"""Whether two encoders of one model give the same embeddings: shown on noise and on texts of many kinds."""

from collections.abc import Callable, Sequence

import numpy as np

from clipzs.encoder import Encoder, Pixels, Tokens
from clipzs.errors import DeviceError
from clipzs.score import Array

TEXTS = (
    "a photo of a cat.",
    "dog",
    "a bad low-resolution photo of many very old wooden sailing boats in the harbour at dusk, seen from a hill",
    "3.5 inch floppy disk & C++",
    "日本の猫 — naïve café 🐈",
    "the origami temple",
    "itap of my rocket.",
    "",
)
LEAST_COSINE = 0.999  # of a device's embeddings to the CPU's


def least_cosine_of_images(one: Encoder, other: Encoder, images: Pixels) -> float:
    """The least cosine between both encoders' embeddings of images, all together and the last by itself."""
    return min(_least(one.encode_images(some), other.encode_images(some)) for some in (images, images[-1:]))


def least_cosine_of_texts(one: Encoder, other: Encoder) -> float:
    """The least cosine between both encoders' embeddings of `TEXTS`, all together and the first by itself."""
    return min(
        _least(one.encode_texts(one.tokenize(texts)), other.encode_texts(other.tokenize(texts)))
        for texts in (TEXTS, TEXTS[:1])
    )


def probe_images(size: tuple[int, int]) -> Pixels:
    """uint8 [3, height, width, 3]: two of noise and a smooth one."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    return np.concatenate([noise, np.broadcast_to(ramp[None, None, :, None], (1, height, width, 3))])


def _least(ours: Array, theirs: Array) -> float:
    return float((ours * theirs).sum(axis=1).min())


class VerifiedEncoder:
    """An `Encoder` each of whose towers is compared with that of another, once, before anything relies on it.

    Raises (when a tower is first used):
        DeviceError: they do not agree.
    """

    def __init__(self, encoder: Encoder, reference: Callable[[], Encoder], *, size: tuple[int, int]) -> None:
        """Nothing is loaded yet.

        Args:
            encoder: which one to use.
            reference: makes one that is right.
            size: height and width of the images.
        """
        self.engine, self.device, self.precision = encoder.engine, encoder.device, encoder.precision
        self._encoder = encoder
        self._reference = reference
        self._size = size
        self._verified: set[str] = set()

    @property
    def logit_scale(self) -> float:
        """exp of the learned log scale; unitless."""
        return self._encoder.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """The learned bias, of models trained with a sigmoid."""
        return self._encoder.logit_bias

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts → token ids; needs no tower."""
        return self._encoder.tokenize(texts)

    def encode_texts(self, tokens: Tokens) -> Array:
        """Token ids → float32 [n, d], rows of length 1."""
        if "text" not in self._verified:
            self._verify("text", least_cosine_of_texts(self._encoder, self._reference()))
        return self._encoder.encode_texts(tokens)

    def encode_images(self, pixels: Pixels) -> Array:
        """uint8 [b, height, width, 3] → float32 [b, d], rows of length 1."""
        if "image" not in self._verified:
            images = probe_images(self._size)
            self._verify("image", least_cosine_of_images(self._encoder, self._reference(), images))
        return self._encoder.encode_images(pixels)

    def expect_images(self) -> None:
        """Images will follow: what can be loaded meanwhile may be."""
        self._encoder.expect_images()

    def _verify(self, tower: str, cosine: float) -> None:
        if not cosine >= LEAST_COSINE:  # so that a cosine that is no number fails too
            raise DeviceError(
                f"the device {self.device} computes other embeddings than the CPU here: cosine {cosine:.4f}, "
                f"{LEAST_COSINE} wanted, of the {tower} tower in {self.precision}",
                hint="use --device cpu" + ("" if self.precision == "fp32" else ", or --precision fp32"),
            )
        self._verified.add(tower)
