"""Images in, their embeddings out: from the cache where it has them, decoded and through the model where it has not."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, Self, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzs import filehashes, images, stream
from clipzs.decoders import DECODERS, Decoding
from clipzs.errors import ImageError
from clipzs.imagecache import Content, ImageCache
from clipzs.paths import Found
from clipzs.preprocess import Preprocess
from clipzs.score import Array

ImageLike = Union[str, "PathLike[str]", Image.Image, "NDArray[Any]", images.Blob, Found]
Pixels = NDArray[np.uint8]

AHEAD_BYTES = 256_000_000  # of pixels that wait for the model


@dataclass(frozen=True)
class Batch:
    """Some images, in the order in which they were given.

    Attributes:
        names: of all of them.
        errors: why an image could not be read; None for those that could.
        vectors: float32 [m, d], of the m that could.
    """

    names: Sequence[str]
    errors: Sequence[str | None]
    vectors: Array


@dataclass(slots=True)
class Prepared:
    """One image before the model: an error, an embedding that was kept, or pixels.

    Attributes:
        name: of the image.
        error: why it could not be read.
        vector: float32 [d], if it was embedded before.
        pixels: uint8 [height, width, 3], if it was not.
        content: of what was read, if its embedding is to be kept.
    """

    name: str
    error: str | None = None
    vector: Array | None = None
    pixels: Pixels | None = None
    content: Content | None = None


class Pipeline:
    """What turns images into embeddings: those of a source, or single ones in a `with` block, which keeps them all."""

    def __init__(
        self,
        encode: Callable[[Pixels], Array],
        preprocess: Preprocess,
        cache: ImageCache | None,
        *,
        size: int,
        max_megapixels: float,
        exact: bool,
        timeout: float,
    ) -> None:
        """Set up.

        Args:
            encode: uint8 [b, height, width, 3] → float32 [b, d]; the pixels are overwritten later.
            preprocess: the model's.
            cache: where embeddings of files are looked up and kept.
            size: images in a call of `encode`, at most.
            max_megapixels: larger images are refused.
            exact: decode every pixel of large images.
            timeout: seconds that a file may take to be read and decoded; 0 is without end.
        """
        self._encode = encode
        self._preprocess = preprocess
        self._cache = cache
        self._size = size
        self._decoding = Decoding(preprocess, max_megapixels, exact, timeout)
        self._buffer: Pixels | None = None

    def __call__(self, given: Iterable[ImageLike], *, live: bool = False) -> Generator[Batch, None, None]:
        """Batches in order; files are decoded ahead of the model. To be called once.

        What was encoded is kept also when the caller stops early or something fails.

        Args:
            given: paths, findings, files in memory, PIL images and arrays.
            live: hand over what is there instead of filling batches.
        """
        height, width = self._preprocess.size
        prepared = stream.batches(
            enumerate(given),
            lambda numbered: self.prepare(numbered[1], f"image-{numbered[0]}"),
            size=self._size,
            window=max(stream.THREADS, min(2 * self._size, AHEAD_BYTES // (height * width * 3))),
            live=live,
            known=self._known,
            weigh=lambda numbered: _bytes(numbered[1]),
        )
        with closing(prepared), self:
            for some in prepared:
                yield self.embed(some)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cache:
            self._cache.__exit__()

    def _known(self, numbered: Sequence[tuple[int, ImageLike]]) -> list[Prepared | None]:
        """Images whose embedding is in the cache."""
        known: list[Prepared | None] = [None] * len(numbered)
        if self._cache:
            paths = {place: path for place, (_, image) in enumerate(numbered) if (path := _path(image))}
            for (place, path), vector in zip(paths.items(), self._cache.look_up([*paths.values()]), strict=True):
                if vector is not None:
                    known[place] = Prepared(path, vector=vector)
        return known

    def prepare(self, image: ImageLike, name: str) -> Prepared:
        """Read and decode one image, on any thread; `name` is for those that have none."""
        file = image if isinstance(image, images.Blob) else _path(image)
        if file is not None:
            name = file if isinstance(file, str) else file.name
        try:
            if file is not None:
                return self._read(file, name)
            if isinstance(image, Found):
                return Prepared(image.path, error=image.error)
            if isinstance(image, np.ndarray):
                image = images.from_array(image)
            if not isinstance(image, Image.Image):
                raise TypeError(f"an image is a path, a PIL image or an array, not {type(image).__name__}")
            return Prepared(name, pixels=self._preprocess(images.upright(image)))
        except ImageError as error:
            return Prepared(name, error=str(error))

    def _read(self, file: str | images.Blob, name: str) -> Prepared:
        """Hash and decode the same bytes of a file, so that no embedding is kept under the hash of others."""
        prepared, now = Prepared(name), time.time_ns()

        def known(sha256: str, mark: str | None) -> bool:
            stamp = filehashes.settled(mark.encode(), now) if mark else None
            prepared.content = Content(name, stamp, bytes.fromhex(sha256))
            prepared.vector = self._cache.of_content(prepared.content) if self._cache else None
            return prepared.vector is not None

        pixels = DECODERS.decode(file, self._decoding, known if self._cache else None)
        if pixels:
            prepared.pixels = np.frombuffer(pixels, np.uint8).reshape(*self._preprocess.size, 3)
        return prepared

    def embed(self, some: Sequence[Prepared]) -> Batch:
        """Run the model over those that need it, on one thread at a time."""
        fresh = [one for one in some if one.pixels is not None]
        if fresh:
            for one, vector in zip(fresh, self._encode(self._assembled(fresh)), strict=True):
                one.vector = vector
        vectors = [one.vector for one in some if one.vector is not None]
        if self._cache:
            for one in some:
                if one.content and one.vector is not None:
                    self._cache.keep(one.content, one.vector)
        return Batch(
            [one.name for one in some],
            [one.error for one in some],
            np.stack(vectors) if vectors else np.empty((0, 0), np.float32),
        )

    def _assembled(self, fresh: Sequence[Prepared]) -> Pixels:
        """uint8 [b, height, width, 3], in memory that every batch uses again."""
        if self._buffer is None or len(self._buffer) < len(fresh):
            self._buffer = np.empty((len(fresh), *self._preprocess.size, 3), np.uint8)
        for row, one in zip(self._buffer, fresh, strict=False):
            row[...], one.pixels = one.pixels, None
        return self._buffer[: len(fresh)]


def _path(image: ImageLike) -> str | None:
    """The file to read, of images that are one."""
    if isinstance(image, Found):
        return None if image.error else image.path
    return fspath(image) if isinstance(image, (str, PathLike)) else None


def _bytes(image: ImageLike) -> int:
    """The memory that an image takes before it is worked on."""
    if isinstance(image, np.ndarray):
        return image.nbytes
    if isinstance(image, images.Blob):
        return len(image.data)
    return image.width * image.height * len(image.getbands()) if isinstance(image, Image.Image) else 0
