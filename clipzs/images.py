"""One image file → an upright RGB image, or an ImageError that says what is wrong with it."""

import io
import re
import stat
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipzs import defaults
from clipzs.errors import ImageError

_HEIC_SUFFIXES = (".heic", ".heif", ".hif")


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
            if not file.seekable():
                file = io.BytesIO(file.read())
            return _decode(file, path, max_megapixels)
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


def _decode(file: io.BufferedIOBase, path: str, max_megapixels: float) -> Image.Image:
    _raise_pillow_limit(max_megapixels)
    _enable_heic(path)
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
        raise ImageError(f"damaged or truncated: {_one_line(str(error)) or type(error).__name__}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image in any of Pillow's modes as 8-bit RGB, the way a person sees it.

    Turned as its EXIF orientation says; 16-bit and float greys scaled to 8 bits; transparency
    laid on white; palettes, CMYK and greys converted.
    """
    with suppress(Exception):  # a broken EXIF block is no reason to refuse the picture
        orientation = image.getexif().get(0x0112, 1)
        if orientation in range(2, 9):
            image.load()
            image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
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
    pixels = int(max_megapixels * 1e6)
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = pixels


def _enable_heic(path: str) -> None:
    if Path(path).suffix.lower() in _HEIC_SUFFIXES:
        with suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()


def _too_large(megapixels: float, limit: float) -> ImageError:
    return ImageError(f"{megapixels:.0f} megapixels, over the limit of {limit:g}; allow it with --max-megapixels")


def _why_unknown(file: io.BufferedIOBase, path: str) -> str:
    file.seek(0)
    head = file.read(512)
    if not head:
        return "the file is empty"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1") or path.lower().endswith(_HEIC_SUFFIXES):
        return "HEIC needs one more package: pip install 'clipzs[heic]'"
    if b"\0" not in head:
        with suppress(UnicodeDecodeError):
            head[:-4].decode("utf-8")
            return "a text file, not an image"
    return "not an image in a format that can be read"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def is_directory(path: str) -> bool:
    """Whether the path is a folder; False for anything that cannot be looked at."""
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False
