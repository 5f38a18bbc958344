"""A heat map laid on its picture. PIL and numpy only."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzs.score import Array

# From no heat to the most: the colours of a glowing body, which also differ in lightness alone.
_COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
_STRENGTH = 0.7  # of the hottest colour over the picture
_UNSEEN = 0.35  # lightness of what the model does not see
_GREY = 0.6  # how much of the picture's own colour is taken away, so that colours mean heat


def laid_on(picture: Image.Image, heat: Array, box: tuple[float, float, float, float]) -> Image.Image:
    """The picture with its heat, and darkened where the model does not look.

    Args:
        picture: RGB.
        heat: float32 [rows, columns] in [0, 1].
        box: (left, top, right, bottom) of the heat, in pixels of the picture; may reach beyond it.
    """
    share = _spread(heat, box, picture.size)[..., None]  # [height, width, 1]; NaN where nothing is seen
    seen = ~np.isnan(share)
    grey = np.asarray(picture.convert("L"), np.float64)[..., None]
    plain = (1 - _GREY) * np.asarray(picture, np.float64) + _GREY * grey
    share = np.where(seen, share, 0.0)
    mixed = (1 - _STRENGTH * share) * plain + _STRENGTH * share * _coloured(share[..., 0])
    return Image.fromarray(np.rint(np.where(seen, mixed, _UNSEEN * plain)).astype(np.uint8))


def _spread(heat: Array, box: tuple[float, float, float, float], size: tuple[int, int]) -> NDArray[np.float64]:
    """float64 [height, width]: the heat at the middle of every pixel, NaN outside the box."""
    left, top, right, bottom = box
    rows, columns = heat.shape
    x = (np.arange(size[0]) + 0.5 - left) / (right - left)  # 0 to 1 inside the box
    y = (np.arange(size[1]) + 0.5 - top) / (bottom - top)
    down = np.stack([np.interp(y * rows - 0.5, np.arange(rows), column) for column in heat.T], axis=1)
    full = np.stack([np.interp(x * columns - 0.5, np.arange(columns), line) for line in down])
    outside = ((y < 0) | (y > 1))[:, None] | ((x < 0) | (x > 1))[None]
    return np.where(outside, np.nan, full)


def _coloured(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """[height, width] in [0, 1] → [height, width, 3] in [0, 255]."""
    places = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(share, places, channel) for channel in _COLOURS.T], axis=-1)
