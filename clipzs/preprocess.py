"""An upright RGB image → the pixels a model reads. PIL and numpy only; the model itself normalises them.

numpy is imported when it is needed: what decodes files in processes of their own does without it.

Bit-equal to the geometry of open_clip's evaluation transform (Resize, CenterCrop or pad on a PIL image),
whose steps in torchvision this follows; the tests compare the two.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = tuple(_RESAMPLING)
_MAX_RATIO = 1000  # of the sides: beyond, fitting the short side would make an image too large for any memory


class Framing(Protocol):
    """What is made of an upright image."""

    @property
    def resampling(self) -> Image.Resampling:
        """The filter."""

    def target(self, width: int, height: int) -> tuple[int, int] | None:
        """(width, height) that an image of this size is resized to, before the cut; None if it is cut first as well."""

    def cut(self, resized: Image.Image) -> Image.Image:
        """What is kept of an image of the size `target`."""

    def framed(self, image: Image.Image) -> Image.Image:
        """All of it: an RGB or grey ("L") image of any size, resized and cut."""

    def packed(self, framed: Image.Image) -> bytes:
        """As the bytes that leave the decoder."""


@dataclass(frozen=True)
class Preprocess:
    """How a model wants its images; the names and defaults are open_clip's.

    Attributes:
        size: (height, width) in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest" fits the short side and cuts the middle out; "longest" fits the long
            side and pads; "squash" ignores the proportions.
        fill_color: grey level of the padding, 0-255.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    def __call__(self, image: Image.Image) -> "NDArray[np.uint8]":
        """An RGB or grey ("L") image of any size → uint8 [height, width, 3]."""
        import numpy as np

        return np.array(self.framed(image))

    def framed(self, image: Image.Image) -> Image.Image:
        """An RGB or grey ("L") image of any size → an RGB one of the model's."""
        if self._is_thread(image.width, image.height):
            longest = _MAX_RATIO * min(image.size)  # what is cut off here would be cut off below
            image = _centred(image, min(image.width, longest), min(image.height, longest), 0)
        return self.cut(image.resize(self._resized(image.width, image.height), self.resampling))

    @property
    def resampling(self) -> Image.Resampling:
        """The filter; open_clip passes no interpolation on in one case, which makes it bicubic."""
        if self.resize_mode == "shortest" and self.size[0] != self.size[1]:
            return Image.Resampling.BICUBIC
        return _RESAMPLING[self.interpolation]

    def target(self, width: int, height: int) -> tuple[int, int] | None:
        """(width, height) that an image of this size is resized to, before the cut; None if it is cut first as well."""
        return None if self._is_thread(width, height) else self._resized(width, height)

    def cut(self, resized: Image.Image) -> Image.Image:
        """The middle of an image of the size `target`, in RGB, padded where the model wants more."""
        rgb = resized if resized.mode == "RGB" else resized.convert("RGB")  # greys are a third of the work until here
        height, width = self.size
        return _centred(rgb, width, height, self.fill_color if self.resize_mode == "longest" else 0)

    def packed(self, framed: Image.Image) -> bytes:
        """uint8 [height, width, 3]."""
        return framed.tobytes()

    def view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what the model sees of an image of this size, in pixels of that image.

        Where the model wants more than there is, and pads, the box reaches beyond the image.
        """
        longest = _MAX_RATIO * min(width, height) if self._is_thread(width, height) else max(width, height)
        inner = min(width, longest), min(height, longest)
        left, right = _seen(width, inner[0], self._resized(*inner)[0], self.size[1])
        top, bottom = _seen(height, inner[1], self._resized(*inner)[1], self.size[0])
        return left, top, right, bottom

    def _is_thread(self, width: int, height: int) -> bool:
        return self.resize_mode == "shortest" and max(width, height) > _MAX_RATIO * min(width, height)

    def _resized(self, image_width: int, image_height: int) -> tuple[int, int]:
        """(width, height) after resizing, before the cut. Truncation and rounding follow torchvision's."""
        height, width = self.size
        if self.resize_mode == "squash":
            return width, height
        if self.resize_mode == "shortest" and height == width:
            short, long = sorted((image_width, image_height))
            other = int(height * long / short)
            return (height, other) if image_width <= image_height else (other, height)
        ratios = image_height / height, image_width / width
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(image_width / ratio)), max(1, round(image_height / ratio))  # open_clip fails at 0


@dataclass(frozen=True)
class Thumbnail:
    """The whole picture, small, for a person: proportions kept, never enlarged, with nothing but its pixels.

    Attributes:
        longest: pixels of its longer side, at most.
    """

    longest: int

    @property
    def resampling(self) -> Image.Resampling:
        """The filter."""
        return Image.Resampling.BICUBIC

    def target(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of what is made of an image of this size."""
        scale = min(1.0, self.longest / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def cut(self, resized: Image.Image) -> Image.Image:
        """All of it."""
        return resized

    def framed(self, image: Image.Image) -> Image.Image:
        """An RGB or grey ("L") image of any size, as a small one."""
        return image.resize(self.target(*image.size), self.resampling)

    def packed(self, framed: Image.Image) -> bytes:
        """WebP: a third smaller than JPEG that looks as well, and a millisecond of work. No EXIF, XMP or ICC in it."""
        target = io.BytesIO()
        framed.save(target, "WEBP", quality=75, method=2, exif=b"", xmp=b"", icc_profile=b"")
        return target.getvalue()


def framing(fields: Mapping[str, Any]) -> Preprocess | Thumbnail:
    """The one or the other, by its attributes."""
    return Thumbnail(**fields) if "longest" in fields else Preprocess(**fields)


def _seen(side: int, inner: int, resized: int, wanted: int) -> tuple[float, float]:
    """Where a frame begins and ends on one side of an image, in its pixels.

    Args:
        side: of the image.
        inner: what was cut out of its middle first.
        resized: the length that this was given.
        wanted: that of the frame.
    """
    begin = round((resized - wanted) / 2) if resized >= wanted else -((wanted - resized) // 2)
    cut, scale = round((side - inner) / 2), inner / resized
    return cut + begin * scale, cut + (begin + wanted) * scale


def _centred(image: Image.Image, width: int, height: int, fill: int) -> Image.Image:
    """Cut the middle out; where the image is smaller than the frame, pad it first."""
    pad_x, pad_y = max(0, width - image.width), max(0, height - image.height)
    if pad_x or pad_y:
        canvas = Image.new("RGB", (image.width + pad_x, image.height + pad_y), (fill, fill, fill))
        canvas.paste(image, (pad_x // 2, pad_y // 2))
        image = canvas
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
