"""Which code builds a model's towers: open_clip's, or that of Chinese-CLIP."""

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clipzs.bert import PADDING, text_tower
from clipzs.chinese import ChineseClip
from clipzs.encoder import TextEnd
from clipzs.modelspec import ModelSpec
from clipzs.towers import OpenClipEncoder

if TYPE_CHECKING:
    from clipzs.checkpoint import State

_IMAGE, _TEXT = "vision_model.", "text_model."  # what tensors begin with as transformers saves them
_ITS_IMAGE, _ITS_TEXT = "visual.", "bert."  # and as OFA-Sys' own code does
_IMAGE_PROJECTION, _TEXT_PROJECTION = (
    "visual_projection.weight",
    "text_projection",
)  # the latter with .weight or without
_NAMES = (  # of transformers → of open_clip
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding.", "conv1."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("pre_layrnorm.", "ln_pre."),
    ("post_layernorm.", "ln_post."),
    ("encoder.layers.", "transformer.resblocks."),
    (".layer_norm", ".ln_"),
    (".self_attn.", ".attn."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
_QUERY = re.compile(r"(.*\.attn\.)q_proj\.(weight|bias)").fullmatch
_UNUSED = re.compile(r"(.*\.position_ids|pooler\..*)").fullmatch


def encoder_for(
    spec: ModelSpec, *, device: str = "auto", precision: str = "auto", torch_compile: bool = False
) -> OpenClipEncoder:
    """The encoder of a model in torch; nothing is loaded yet. The arguments are those of `OpenClipEncoder`.

    Raises:
        DeviceError: a device or precision this machine lacks.
    """
    kind = ChineseClipEncoder if isinstance(spec, ChineseClip) else OpenClipEncoder
    return kind(spec, device=device, precision=precision, torch_compile=torch_compile)


class ChineseClipEncoder(OpenClipEncoder):
    """A Chinese-CLIP: an image tower of open_clip beside a BERT. A checkpoint may be OFA-Sys' or transformers'."""

    known = (_IMAGE, _TEXT, _ITS_IMAGE, _ITS_TEXT, _IMAGE_PROJECTION, _TEXT_PROJECTION, "logit_scale")

    @cached_property
    def text_end(self) -> TextEnd:
        """A BERT does not attend to padding."""
        return TextEnd("padding", PADDING)

    @cached_property
    def _text(self) -> Any:
        return self._tower(lambda: text_tower(self.spec.config), self._text_state, lambda model: model)

    def _whole_model(self, direct: Exception) -> Any:
        raise self._misfit(direct) from direct

    def _image_state(self) -> "State":
        state = super()._image_state()
        if state:
            return state
        found = self._checkpoint.tensors(lambda key: key.startswith((_IMAGE, _IMAGE_PROJECTION)))
        projection = found.pop(_IMAGE_PROJECTION, None)
        state = {_renamed(key.removeprefix(_IMAGE)): tensor for key, tensor in found.items() if not _UNUSED(key)}
        return _fused(state) | ({} if projection is None else {"proj": projection.T.contiguous()})

    def _text_state(self) -> "State":
        found = self._checkpoint.tensors(lambda key: key.startswith((_TEXT, _ITS_TEXT, _TEXT_PROJECTION)))
        state = {key.removeprefix(_TEXT).removeprefix(_ITS_TEXT): tensor for key, tensor in found.items()}
        if _TEXT_PROJECTION in state:
            state[f"{_TEXT_PROJECTION}.weight"] = state.pop(_TEXT_PROJECTION).T.contiguous()
        return {key: tensor for key, tensor in state.items() if not _UNUSED(key)}


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name


def _fused(state: "State") -> "State":
    """Queries, keys and values of each layer as one tensor, which is how open_clip has them."""
    import torch

    for query in [match for match in map(_QUERY, list(state)) if match]:
        layer, part = query.groups()
        names = [f"{layer}{kind}_proj.{part}" for kind in "qkv"]
        if all(name in state for name in names):
            state[f"{layer}in_proj_{part}"] = torch.cat([state.pop(name) for name in names])
    return state
