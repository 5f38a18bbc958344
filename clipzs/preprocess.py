"""An upright RGB image → the pixels a model reads. PIL and numpy only; the model itself normalises them.

Bit-equal to the geometry of open_clip's evaluation transform (Resize, CenterCrop or pad on a PIL image),
whose steps in torchvision this follows; the tests compare the two.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = tuple(_RESAMPLING)
_MAX_RATIO = 1000  # of the sides: beyond, fitting the short side would make an image too large for any memory


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

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB image of any size → uint8 [height, width, 3]."""
        return np.array(self.framed(image))

    def framed(self, image: Image.Image) -> Image.Image:
        """The image resized, then cut or padded to the model's size."""
        height, width = self.size
        resampling = _RESAMPLING[self.interpolation]
        if self.resize_mode == "squash":
            return image.resize((width, height), resampling)
        fill = self.fill_color if self.resize_mode == "longest" else 0
        if self.resize_mode == "shortest" and height != width:
            resampling = Image.Resampling.BICUBIC  # open_clip passes no interpolation on in this one case
        if self.resize_mode == "shortest" and max(image.size) > _MAX_RATIO * min(image.size):
            longest = _MAX_RATIO * min(image.size)  # what is cut off here would be cut off below
            image = _centred(image, min(image.width, longest), min(image.height, longest), fill)
        return _centred(image.resize(self._resized_size(image), resampling), width, height, fill)

    def _resized_size(self, image: Image.Image) -> tuple[int, int]:
        """(width, height) after resizing, before the cut. Truncation and rounding follow torchvision's."""
        height, width = self.size
        if self.resize_mode == "shortest" and height == width:
            short, long = sorted(image.size)
            other = int(height * long / short)
            return (height, other) if image.width <= image.height else (other, height)
        ratios = image.height / height, image.width / width
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(image.width / ratio)), max(1, round(image.height / ratio))  # open_clip fails at 0


def _centred(image: Image.Image, width: int, height: int, fill: int) -> Image.Image:
    """Cut the middle out; where the image is smaller than the frame, pad it first."""
    pad_x, pad_y = max(0, width - image.width), max(0, height - image.height)
    if pad_x or pad_y:
        canvas = Image.new("RGB", (image.width + pad_x, image.height + pad_y), (fill, fill, fill))
        canvas.paste(image, (pad_x // 2, pad_y // 2))
        image = canvas
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
