"""Where in an image a model finds a label: heat maps of image towers, by published methods. torch lives here.

Vision transformers: LeGrad (arXiv:2404.03214), the gradient of the similarity at the attention of every layer.
Convolutional towers: HiResCAM (arXiv:2011.08891), which is Grad-CAM (arXiv:1610.02391) with the gradient of each
place in place of their mean; the two are the same at the last layer of a tower that ends in an average.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipzs.encoder import Pixels
from clipzs.encoders import encoder_for
from clipzs.errors import ModelError
from clipzs.modelspec import ModelSpec
from clipzs.score import Array
from clipzs.towers import normalise

if TYPE_CHECKING:
    import torch

LEGRAD, HIRESCAM = "LeGrad, arXiv:2404.03214", "HiResCAM, arXiv:2011.08891"
_REPLACING = threading.Lock()
LEAST_CELLS = 6  # along the shorter side of a feature map that is shown; the last one of a small tower may have 3


@dataclass(frozen=True)
class Heat:
    """How much each part of what a model sees speaks for a label.

    Attributes:
        method: its name and source.
        grid: float32 [rows, columns] in [0, 1], over the frame that the model sees; all 0 if no part does.
    """

    method: str
    grid: Array


class HeatMaps:
    """Where in an image the similarity to a label comes from, computed by torch in fp32."""

    def __init__(self, spec: ModelSpec, *, device: str = "auto") -> None:
        """Choose where to compute; the image tower is loaded when it is needed.

        Raises:
            DeviceError: a device this machine lacks.
        """
        self._spec = spec
        self._encoder = encoder_for(spec, device=device, precision="fp32")

    def __call__(self, pixels: Pixels, label: Array) -> Heat:
        """The heat of a label.

        Args:
            pixels: uint8 [height, width, 3], as `Preprocess` gives them.
            label: float32 [d] of length 1.

        Raises:
            ModelError: the image tower is of a kind without a method here, its weights cannot be used, or the memory
                is not enough.
        """
        import torch

        tower, device = self._encoder.tower("image"), self._encoder.device
        with torch.enable_grad(), self._encoder.computing():
            image = normalise(torch.from_numpy(pixels[None].copy()).to(device), self._spec.preprocess)
            heat = _of_tower(tower, image, torch.from_numpy(np.array(label)).to(device))
        if heat is None:
            raise ModelError(
                f"heat maps are for vision transformers and convolutional towers; that of {self._spec.name} is neither",
                hint="leave out the heat map: all else is explained",
            )
        return heat


def _of_tower(tower: Any, image: "torch.Tensor", label: "torch.Tensor") -> Heat | None:
    trunk = getattr(tower, "trunk", tower)  # of timm, which open_clip wraps
    blocks = getattr(getattr(trunk, "transformer", trunk), "resblocks", None) or getattr(trunk, "blocks", None)
    grid = _token_grid(trunk)
    if blocks is not None and grid is not None:
        return _legrad(tower, blocks, grid, image, label)
    stages = _stages(trunk)
    return _hirescam(tower, stages, image, label) if stages else None


def _similarity(tower: Any, image: "torch.Tensor", label: "torch.Tensor") -> "torch.Tensor":
    """The cosine of image and label, a tensor of one number.

    Not its lead over other labels: of photos pasted into noise, that put less heat on the photo (docs/explain.md).
    """
    import torch

    features = tower(image)
    features = features[0] if isinstance(features, (tuple, list)) else features  # CoCa gives its tokens too
    cosine: torch.Tensor = torch.nn.functional.normalize(features[0].float(), dim=-1) @ label
    return cosine


# Vision transformers


def _token_grid(trunk: Any) -> tuple[int, int] | None:
    """(rows, columns) of the patches of a vision transformer whose tokens stay as they are; None of all else."""
    if getattr(trunk, "output_fmt", "") == "NHWC":  # windows that merge: Swin
        return None
    grid = getattr(trunk, "grid_size", None) or getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    return (int(grid[0]), int(grid[1])) if grid else None


def _legrad(
    tower: Any, blocks: Any, grid: tuple[int, int], image: "torch.Tensor", label: "torch.Tensor"
) -> Heat | None:
    """For every layer: the similarity if the tower ended there, and its gradient at the tower's last attention.

    The positive part of the gradient is averaged over heads and queries, which leaves a number for each token, and
    over the layers. The last attention is that of the layer or, of towers that end in attention pooling, the pooling's.
    """
    import torch

    layers, given = list(blocks), []
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])).remove)
        with torch.no_grad():
            tower(image)
    image = image.clone().requires_grad_()  # without gradients torch would go past its own attention too
    total = None
    for number, (layer, tokens) in enumerate(zip(layers, given, strict=True)):
        before = _constant(tokens.detach().clone().requires_grad_())
        with _replaced(blocks, [before] * number + [layer]), _attention() as seen:
            similarity = _similarity(tower, image, label)
        if not seen or seen[-1].shape[-1] < grid[0] * grid[1]:
            return None
        (gradient,) = torch.autograd.grad(similarity, seen[-1], allow_unused=True)  # [1, heads, queries, keys]
        if gradient is None:
            return None
        positive = gradient.clamp(min=0).flatten(0, -2).mean(dim=0)
        total = positive if total is None else total + positive
    if total is None:
        return None
    patches = total[-grid[0] * grid[1] :]  # the tokens before them are no patches
    return Heat(LEGRAD, _between_0_and_1(patches.reshape(grid), patches.min()))


@contextmanager
def _replaced(blocks: Any, layers: "list[torch.nn.Module]") -> Iterator[None]:
    """Let the tower run through these layers in place of its own."""
    own = dict(blocks._modules)
    blocks._modules = {str(number): layer for number, layer in enumerate(layers)}
    try:
        yield
    finally:
        blocks._modules = own


def _constant(value: "torch.Tensor") -> "torch.nn.Module":
    """A layer that gives these tokens, whatever it is given."""
    import torch

    class Constant(torch.nn.Module):
        def forward(self, *_: Any, **__: Any) -> "torch.Tensor":
            return value

    return Constant()


@contextmanager
def _attention() -> "Iterator[list[torch.Tensor]]":
    """The weights of every attention inside the block, [batch, heads, queries, keys].

    torch computes attention in one step that shows no weights, so this takes the place of that step. All towers call
    it by the name that is replaced here; torch's own way to override functions does not reach into MultiheadAttention.
    Other threads go on with the step as it is; one at a time is in the block.
    """
    import torch

    functional, here = torch.nn.functional, threading.get_ident()
    seen: list[torch.Tensor] = []

    def explicit(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **more: Any,
    ) -> torch.Tensor:
        if threading.get_ident() != here:
            return fused(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
        seen.append(logits.softmax(dim=-1))
        return seen[-1] @ value

    with _REPLACING:
        fused = functional.scaled_dot_product_attention
        functional.scaled_dot_product_attention = explicit  # type: ignore[assignment]
        try:
            yield seen
        finally:
            functional.scaled_dot_product_attention = fused


# Convolutional towers


def _stages(trunk: Any) -> "list[torch.nn.Module]":
    """The parts of a convolutional tower after which its feature map becomes smaller, first to last."""
    if hasattr(trunk, "layer4") and hasattr(trunk, "attnpool"):  # open_clip's own ResNet
        return [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    found = []
    with suppress(AttributeError, KeyError, TypeError):  # a trunk that does not say
        info = trunk.feature_info
        found = [trunk.get_submodule(stage["module"]) for stage in getattr(info, "info", info)]
    return found


def _hirescam(tower: Any, stages: "list[torch.nn.Module]", image: "torch.Tensor", label: "torch.Tensor") -> Heat | None:
    """Gradient times value of the deepest feature map that is not too coarse, added up over its channels."""
    import torch

    maps: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for stage in stages:
            hooks.callback(stage.register_forward_hook(lambda _, __, output: maps.append(output)).remove)
        with torch.no_grad():
            tower(image)
    if len(maps) != len(stages) or any(each.ndim != 4 for each in maps):
        return None
    last = -2 if getattr(getattr(tower, "trunk", tower), "output_fmt", "") == "NHWC" else -1  # place of the columns
    sizes = [min(each.shape[last - 1], each.shape[last]) for each in maps]
    deepest = max((number for number, size in enumerate(sizes) if size >= LEAST_CELLS), default=sizes.index(max(sizes)))

    def leaf(_: Any, __: Any, output: "torch.Tensor") -> "torch.Tensor":
        maps.append(output.detach().requires_grad_())
        return maps[-1]

    hook = stages[deepest].register_forward_hook(leaf)
    try:
        similarity = _similarity(tower, image, label)
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(similarity, maps[-1])
    heat = (gradient * maps[-1])[0].sum(dim=2 if last == -2 else 0).clamp(min=0)
    return Heat(HIRESCAM, _between_0_and_1(heat, heat.new_zeros(())))


def _between_0_and_1(heat: "torch.Tensor", least: "torch.Tensor") -> Array:
    """float32 [rows, columns], from 0 at the least to 1 at the most; all 0 where nothing stands out."""
    above = (heat.detach() - least).double().cpu().numpy()
    most = above.max()
    return (above / most if most > 0 else np.zeros_like(above)).astype(np.float32)
