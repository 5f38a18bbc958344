"""Pictures -> model input: random crops, softness and sharpness, colour; and the plain resize."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from .common import MEAN, STD

_MEAN = torch.tensor(MEAN).view(1, 3, 1, 1)
_STD = torch.tensor(STD).view(1, 3, 1, 1)
_GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def _uniform(n: int, low: float, high: float) -> torch.Tensor:
    return torch.empty(n, 1, 1, 1).uniform_(low, high)


def to_float(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [n, h, w, 3] -> float [n, 3, h, w] in 0..1."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float().div_(255)


def normalise(x: torch.Tensor) -> torch.Tensor:
    """Float [n, 3, h, w] in 0..1 -> the same tensor, changed in place, less MEAN and divided by STD."""
    return x.sub_(_MEAN).div_(_STD)


def plain(pixels: np.ndarray, size: int) -> torch.Tensor:
    """What open_clip's transform does to square pictures, on tensors."""
    x = to_float(pixels)
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp_(0, 1)
    return normalise(x).contiguous(memory_format=torch.channels_last)


def crop(x: torch.Tensor, size: int, smallest: float) -> torch.Tensor:
    """Random-resized crop with flip, by bilinear sampling; area smallest..1, aspect 3/4..4/3."""
    n = len(x)
    area = torch.empty(n).uniform_(smallest, 1)
    aspect = torch.exp(torch.empty(n).uniform_(-0.288, 0.288))
    wide, high = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = wide * torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = high
    theta[:, 0, 2] = (torch.rand(n) * 2 - 1) * (1 - wide)
    theta[:, 1, 2] = (torch.rand(n) * 2 - 1) * (1 - high)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def augment(pixels: np.ndarray, size: int, smallest: float, grey: float) -> torch.Tensor:
    """One source's part of a training batch [n, 3, size, size].

    The training extracts are small, users' photos are sharp: pictures are blurred or sharpened one by
    one. The larger extracts mostly go through 44-64 pixels, so that sharpness does not tell the source
    (else every sharp pet would be a cat, the one pet among the larger extracts).
    """
    x = to_float(pixels)
    n = len(x)
    if x.shape[-1] >= 72 and torch.rand(1).item() < 0.9:
        smaller = int(torch.randint(44, 65, (1,)))
        x = F.interpolate(x, (smaller, smaller), mode="bilinear", antialias=True, align_corners=False)
    x = crop(x, size, smallest)
    blurred = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    x = torch.lerp(blurred, x, 1 + _uniform(n, -0.8, 2.0))
    luma = (x * _GREY).sum(1, keepdim=True)
    saturation = _uniform(n, 0.6, 1.4) * (torch.rand(n, 1, 1, 1) >= grey)
    x = torch.lerp(luma, x, saturation)
    level = luma.mean((2, 3), keepdim=True)
    x = (x - level).mul_(_uniform(n, 0.7, 1.3)).add_(level * _uniform(n, 0.75, 1.25))
    if torch.rand(1).item() < 0.2:
        x = x + torch.randn_like(x) * _uniform(n, 0, 0.04)
    return normalise(x.clamp_(0, 1))


def crop_floor(side: int, base: float) -> float:
    """Thumbnails of 32 pixels must not be cropped as hard as the others."""
    return max(base, 0.55) if side < 48 else base


def erase(x: torch.Tensor, share: float) -> torch.Tensor:
    """Blank one random square in a share of the pictures."""
    n, _, high, wide = x.shape
    for i in (torch.rand(n) < share).nonzero()[:, 0].tolist():
        side = int(high * math.sqrt(float(torch.empty(1).uniform_(0.05, 0.25))))
        top, left = int(torch.randint(high - side, (1,))), int(torch.randint(wide - side, (1,)))
        x[i, :, top : top + side, left : left + side] = 0
    return x
