"""One image, from a file or from memory → an upright RGB image, or an ImageError that says what is wrong with it."""

import io
import math
import re
import threading
from contextlib import suppress
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from clipzs import defaults
from clipzs.errors import ImageError

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


def read_image(path: str, *, max_megapixels: float = defaults.MAX_MEGAPIXELS) -> Image.Image:
    """Decode one file (of an animation, the first frame).

    Args:
        path: any name the system can open, `/dev/stdin` and pipes included.
        max_megapixels: larger images are refused from their header, before any decoding.

    Raises:
        ImageError: missing, unreadable, not an image, damaged, or too large.
    """
    try:
        with open(path, "rb") as file:
            return _decode(file if file.seekable() else io.BytesIO(file.read()), path, max_megapixels)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except PermissionError as error:
        raise ImageError("permission denied") from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except OSError as error:
        raise ImageError(_one_line(error.strerror or str(error))) from error
    except ValueError as error:
        raise ImageError("a path cannot hold a NUL byte; a list made with -print0 needs --null") from error


def _decode(file: BinaryIO, path: str, max_megapixels: float) -> Image.Image:
    _raise_pillow_limit(max_megapixels)
    _enable_heic()
    try:
        with Image.open(file) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > max_megapixels:
                raise _too_large(megapixels, max_megapixels)
            return upright_rgb(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(int(found[0]) / 1e6 if found else float("inf"), max_megapixels) from error
    except UnidentifiedImageError as error:
        raise ImageError(_why_unknown(file, path)) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything from a decoder; it must cost this image only
        raise _damaged(error) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image in any of Pillow's modes as 8-bit RGB, the way a person sees it.

    Turned as its EXIF orientation says; 16-bit and float greys scaled to 8 bits; transparency
    laid on white; palettes, CMYK and greys converted.
    """
    image.load()
    with suppress(Exception):  # a broken EXIF block is no reason to refuse the picture
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        image = image if turn is None else image.transpose(turn)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit_grey(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    elif image.mode == "LAB":
        image = _lab_to_rgb(image)
    return image.convert("RGB")


def from_array(array: "NDArray[Any]") -> Image.Image:
    """An array [height, width], [height, width, 3] or [height, width, 4] as an image.

    Args:
        array: uint8, or float in [0, 1].

    Raises:
        ImageError: another shape, type or range.
    """
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
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:  # a damaged file can raise anything from a decoder; it must cost this image only
        raise _damaged(error) from error


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """16-bit greys by their full range; wider integers and floats by what they hold."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    peak = float(values.max(initial=0.0))
    if image.mode.startswith("I;16"):
        top = 65535.0
    elif image.mode == "F" and peak <= 1.0:
        top = 1.0
    else:
        top = next((top for top in (255.0, 65535.0) if peak <= top), peak)
    return Image.fromarray(np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8))


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
