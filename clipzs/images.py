"""One image, from a file or from memory → an upright RGB image, or an ImageError that says what is wrong with it.

numpy is imported when it is needed: what decodes files in processes of their own does without it.
"""

import io
import math
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from PIL import Image, UnidentifiedImageError

from clipzs import budget, defaults
from clipzs.errors import ImageError
from clipzs.preprocess import Framing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

_HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_HEIC_BRANDS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_FLOAT_SLACK = 1e-3  # how far rounding may carry a float image out of [0, 1]
_LOADING = threading.Lock()  # a caller may pass one lazily opened image twice; Pillow reads it once, on one thread
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = tuple(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
# How many times the size after the exact resize is left at least: JPEG's cosines shrink a picture well, the wavelets of
# JPEG 2000 leave jagged edges, averages of whole blocks some blur.
_LEAST_JPEG, _LEAST_JPEG_2000, _LEAST_AVERAGED = 2, 4, 3
_DECODER_BYTES = {"AVIF": 6, "HEIF": 8, "JPEG2000": 16, "WEBP": 12}  # a pixel, beside Pillow's own
PIPE_BYTES = defaults.DECODING_BYTES  # what is so large is no photo, and may have no end
NO_MEMORY = "not enough memory to decode it"


@dataclass(frozen=True, slots=True)
class Blob:
    """An image file that is in memory: of an upload, or from an archive.

    Attributes:
        name: how results name it.
        data: the bytes of the file.
    """

    name: str
    data: bytes = field(repr=False)


class Memory(Protocol):
    """What has the memory to decode in."""

    def hold(self, amount: int) -> AbstractContextManager[None]:
        """Wait for that many bytes; give them back at the end of the block."""


def read_image(path: str, *, max_megapixels: float = defaults.MAX_MEGAPIXELS) -> Image.Image:
    """Decode one file (of an animation, the first frame), every pixel of it.

    Args:
        path: any name the system can open, `/dev/stdin` and pipes included.
        max_megapixels: larger images are refused from their header, before any decoding.

    Raises:
        ImageError: missing, unreadable, not an image, damaged, or too large.
    """
    with opened(path) as file, _identified(file, path, max_megapixels) as image:
        return upright_rgb(image)


def upright_size(path: str, *, max_megapixels: float = defaults.MAX_MEGAPIXELS) -> tuple[int, int]:
    """(width, height) of the image in a file, the way a person sees it. Decodes no pixels but those of a PNG.

    Raises:
        ImageError: as of `read_image`.
    """
    with opened(path) as file, _identified(file, path, max_megapixels) as image:
        if image.format == "PNG":  # may say it after its pixels
            image.load()
        return image.size[::-1] if _turn(image) in _ON_ITS_SIDE else image.size


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file that can be read more than once; of a pipe, what it holds.

    Args:
        path: any name the system can open, `/dev/stdin` and pipes included.

    Raises:
        ImageError: it cannot be opened or, inside the block, be read; or it is a device or a socket.
    """
    try:
        with _open(path) as file:
            yield file if _goes_back(file) else io.BytesIO(_all_of(file))
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except PermissionError as error:
        raise ImageError("permission denied") from error
    except MemoryError as error:
        raise ImageError(NO_MEMORY) from error
    except OSError as error:
        raise ImageError(_one_line(error.strerror or str(error))) from error


def _open(path: str) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        # To open a device may do something, and to read one may never end.
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise ImageError("a device, not a file")
        if stat.S_ISSOCK(mode):
            raise ImageError("a socket, not a file")
        return open(path, "rb")
    except ValueError as error:
        raise ImageError("a path cannot hold a NUL byte; a list made with -print0 needs --null") from error


def _goes_back(file: BinaryIO) -> bool:
    with suppress(OSError):  # some files of /proc go forth only
        return file.seekable() and file.seek(0, io.SEEK_END) >= 0 and file.seek(0) == 0
    return False


def _all_of(pipe: BinaryIO) -> bytes:
    content = bytearray()
    while block := pipe.read(1 << 20):
        content += block
        if len(content) > PIPE_BYTES:
            raise ImageError(f"more than {PIPE_BYTES / 1e6:.0f} MB from a pipe")
    return bytes(content)


def pixels(
    file: BinaryIO,
    path: str,
    preprocess: Framing,
    *,
    max_megapixels: float,
    exact: bool = False,
    memory: Memory = budget.DECODING,
) -> Image.Image:
    """Decode one file to what a model reads: an RGB image of its size. Or to a thumbnail.

    Large images are decoded smaller where their format allows it (JPEG, JPEG 2000), and very large
    ones averaged by whole blocks, but never to less than twice the size that the resize makes of them.
    Where nothing is to be gained, and with `exact`, the result is `preprocess(read_image(path))` to
    the bit.

    Args:
        file: can be read more than once, from any position on.
        path: its name, for messages.
        preprocess: the model's, or a `preprocess.Thumbnail`.
        max_megapixels: larger images are refused from their header, before any decoding.
        exact: decode and resize every pixel, as open_clip does.
        memory: is asked for what decoding takes at most; unless given, all threads of this process share one.

    Raises:
        ImageError: not an image, damaged, too large, or too large for the memory.
    """
    with _identified(file, path, max_megapixels) as image:
        if exact:
            return _framed(image, preprocess, memory, exact=True)
        if image.format in ("JPEG", "MPO"):
            return _framed(image, preprocess, memory, _drafted(image, preprocess))
        if image.format == "JPEG2000" and image.mode in ("L", "RGB", "I;16"):
            for halvings in _halvings(image, preprocess):
                # A file with fewer resolutions in it fails, and so does a damaged one: what follows tells them apart.
                with suppress(Exception), Image.open(file) as again:
                    return _framed(again, preprocess, memory, _halved(again, halvings))
        return _framed(image, preprocess, memory)


@dataclass(frozen=True)
class _Reduced:
    """How an image that will be decoded smaller lies in what is decoded.

    Attributes:
        size: (width, height) of the whole image, as stored.
        box: its (left, top, right, bottom) in decoded pixels.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]


def _framed(
    image: Image.Image,
    preprocess: Framing,
    memory: Memory,
    reduced: _Reduced | None = None,
    *,
    exact: bool = False,
) -> Image.Image:
    turn = None if image.format == "PNG" else _turn(image)
    with memory.hold(_bytes(image, turn, reduced, exact=exact)):
        image.load()
        turn = _turn(image)  # a PNG may say it after its pixels
        plain = _plain(image)
        size = reduced.size if reduced else image.size
        target = None if exact else _target(size, turn, preprocess)
        if target and (
            reduced or any(side >= 2 * _LEAST_AVERAGED * small for side, small in zip(size, target, strict=True))
        ):
            if reduced and max(reduced.box[2] - plain.width, reduced.box[3] - plain.height) > 0:
                plain = _with_edge(plain)
            box = reduced.box if reduced else None
            return preprocess.cut(_turned(plain.resize(target, preprocess.resampling, box, _LEAST_AVERAGED), turn))
        return preprocess.framed(_turned(plain, turn))


def _target(size: tuple[int, int], turn: Image.Transpose | None, preprocess: Framing) -> tuple[int, int] | None:
    """What the model makes of an image of that size, both (width, height) as stored."""
    if turn not in _ON_ITS_SIDE:
        return preprocess.target(*size)
    target = preprocess.target(*size[::-1])
    return target and target[::-1]


def _drafted(image: Image.Image, preprocess: Framing) -> _Reduced | None:
    """A JPEG, set to be decoded at a half, a quarter or an eighth if that is large enough."""
    size = image.size
    target = _target(size, _turn(image), preprocess)
    drafted = target and image.draft(None, (_LEAST_JPEG * target[0], _LEAST_JPEG * target[1]))
    return _Reduced(size, drafted[1]) if drafted and image.size != size else None


def _halvings(image: Image.Image, preprocess: Framing) -> Iterator[int]:
    """How often a JPEG 2000 image can be halved, the most first."""
    target = _target(image.size, _turn(image), preprocess)
    scale = (
        min(side // (_LEAST_JPEG_2000 * small) for side, small in zip(image.size, target, strict=True)) if target else 0
    )
    for halvings in range(min(scale.bit_length() - 1, 32), 0, -1):
        power = 1 << halvings
        # Pillow rounds the size where the format rounds it up, and refuses what does not agree.
        if all((side + power // 2) // power == -(-side // power) for side in image.size):
            yield halvings


def _halved(image: Image.Image, halvings: int) -> _Reduced:
    """A JPEG 2000 image, set to be decoded at a lower resolution.

    Its pixels there stand for the first one of each block, not for the middle, so all are a bit to the right.
    """
    cast("Jpeg2KImageFile", image).reduce = halvings
    scale = 2.0**-halvings
    shift = (1 - scale) / 2
    return _Reduced(image.size, (shift, shift, image.width * scale + shift, image.height * scale + shift))


def _with_edge(image: Image.Image) -> Image.Image:
    """One more column and row, which repeat the last."""
    import numpy as np

    array = np.asarray(image)
    return Image.fromarray(np.pad(array, [(0, 1), (0, 1), (0, 0)][: array.ndim], mode="edge"))


def _bytes(image: Image.Image, turn: Image.Transpose | None, reduced: _Reduced | None, *, exact: bool) -> int:
    """What decoding an image takes at most, measured with Pillow 13; it is not loaded yet."""
    width, height = (reduced.box[2], reduced.box[3]) if reduced else image.size
    if image.mode in ("I", "F"):
        each = 28
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        each = 20
    else:
        each = 4 if image.mode in ("RGB", "L") else 8
    each += _DECODER_BYTES.get(image.format or "", 0)
    if (turn is not None and not reduced) or (exact and image.format == "PNG"):
        each += 4
    # A progressive JPEG is held whole, as coefficients of 2 bytes, before the first pixel is made.
    coefficients = math.prod(reduced.size if reduced else image.size) * 6 if image.info.get("progressive") else 0
    return math.ceil(width * height * each) + coefficients


@contextmanager
def _identified(file: BinaryIO, path: str, max_megapixels: float) -> Iterator[Image.Image]:
    """The image in a file, its header read. Whatever goes wrong with it inside the block becomes an ImageError."""
    _raise_pillow_limit(max_megapixels)
    _enable_heic()
    try:
        with Image.open(file) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > max_megapixels:
                raise _too_large(megapixels, max_megapixels)
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(int(found[0]) / 1e6 if found else float("inf"), max_megapixels) from error
    except UnidentifiedImageError as error:
        raise ImageError(_why_unknown(file, path)) from error
    except MemoryError as error:
        raise ImageError(NO_MEMORY) from error
    except Exception as error:  # a damaged file can raise anything from a decoder; it must cost this image only
        raise _damaged(error) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image in any of Pillow's modes as 8-bit RGB, the way a person sees it.

    Turned as its EXIF orientation says; 16-bit and float greys scaled to 8 bits; transparency
    laid on white; palettes, CMYK and greys converted.
    """
    image.load()
    image = _turned(image, _turn(image))
    plain = _plain(image)
    if plain.mode != "RGB":
        return plain.convert("RGB")
    return plain.copy() if plain.readonly else plain


def _turn(image: Image.Image) -> Image.Transpose | None:
    with suppress(Exception):  # a broken EXIF block is no reason to refuse the picture
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    return None


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image) -> Image.Image:
    """8-bit RGB or grey ("L"), opaque."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit_grey(image)
    if image.mode in ("P", "PA") and image.palette is None:
        image = image.copy()  # Pillow loads palettes of ICNS without saying that there is one
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "LAB":
        return _lab_to_rgb(image).convert("RGB")
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def from_array(array: "NDArray[Any]") -> Image.Image:
    """An array [height, width], [height, width, 3] or [height, width, 4] as an image.

    Args:
        array: uint8, or float in [0, 1].

    Raises:
        ImageError: another shape, type or range.
    """
    import numpy as np

    problem = ImageError(f"an array of shape {array.shape} and type {array.dtype} is not an image")
    if array.ndim not in (2, 3) or not array.size:
        raise problem
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= -_FLOAT_SLACK and high <= 1 + _FLOAT_SLACK):  # NaN too
            raise ImageError(f"an array of floats must lie in [0, 1], this one in [{low:g}, {high:g}]")
        array = np.clip(np.rint(array * 255.0), 0, 255).astype(np.uint8)
    try:
        return Image.fromarray(array)
    except (TypeError, ValueError) as error:
        raise problem from error


def upright(image: Image.Image) -> Image.Image:
    """As `upright_rgb`, for an image that the caller opened and Pillow may only now read.

    Raises:
        ImageError: without pixels, or damaged.
    """
    if not image.width or not image.height:
        raise ImageError("the image has no pixels")
    try:
        with _LOADING:
            image.load()
        return upright_rgb(image)
    except MemoryError as error:
        raise ImageError(NO_MEMORY) from error
    except Exception as error:  # a damaged file can raise anything from a decoder; it must cost this image only
        raise _damaged(error) from error


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """16-bit greys by their full range; wider integers and floats by what they hold."""
    import numpy as np

    if image.mode.startswith("I;16"):
        return Image.fromarray(_from_16_bits()[np.asarray(image)])
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    peak = float(values.max(initial=0.0))
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    top = next((top for top in tops if peak <= top), peak)
    return Image.fromarray(np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8))


@cache
def _from_16_bits() -> "NDArray[np.uint8]":
    import numpy as np

    return ((np.arange(65536) + 128) // 257).astype(np.uint8)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return converted or image


def _raise_pillow_limit(max_megapixels: float) -> None:
    """Let Pillow open what our own limit allows; it still refuses what is hidden inside a file beyond twice that."""
    pixels = max_megapixels * 1e6
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = None if math.isinf(pixels) else math.ceil(pixels)


@cache
def _enable_heic() -> None:
    """For files of any name: phones and clouds hand out HEIC called .jpg."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _too_large(megapixels: float, limit: float) -> ImageError:
    return ImageError(f"{megapixels:.0f} megapixels, over the limit of {limit:g}; allow it with --max-megapixels")


def _damaged(error: Exception) -> ImageError:
    return ImageError(f"damaged or truncated: {_one_line(str(error)) or type(error).__name__}")


def _why_unknown(file: BinaryIO, path: str) -> str:
    file.seek(0)
    head = file.read(512)
    if not head:
        return "the file is empty"
    if head[4:12] in _HEIC_BRANDS or path.lower().endswith(_HEIC_SUFFIXES):
        return "HEIC needs one more package: pip install 'clipzs[heic]'"
    if b"\0" not in head:
        with suppress(UnicodeDecodeError):
            head[:-4].decode("utf-8")
            return "a text file, not an image"
    return "not an image in a format that can be read"


def _one_line(text: str) -> str:
    return " ".join(text.split())
