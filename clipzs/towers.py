"""open_clip models, one tower at a time.

A tower is built without initialising its weights and takes them straight from the mapped checkpoint file:
a fraction of a second, where `open_clip.create_model` builds, initialises and fills both towers. Where a
checkpoint does not fit a tower as it is (old key layouts, other sizes), `create_model` does the work.
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipzs import hub
from clipzs.checkpoint import Checkpoint, short
from clipzs.devices import chosen_device, chosen_precision, dtype
from clipzs.encoder import Pixels, TextEnd, Tokens, trimmed
from clipzs.errors import ModelError
from clipzs.filling import Difference, Mismatch, difference, filled, unfilled
from clipzs.lookalike import looking_like
from clipzs.memory import OutOfMemory, ran_out
from clipzs.modelspec import ModelSpec
from clipzs.preprocess import Preprocess
from clipzs.score import Array
from clipzs.tokenizers import TextTokenizer, quieten, tokenizer_for, transformers_problems

if TYPE_CHECKING:
    import torch

    from clipzs.checkpoint import State

log = logging.getLogger("clipzs")

_PLAIN_TEXT_KEYS = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
_IMAGE_PREFIX, _TEXT_PREFIX = "visual.", "text."
_BESIDES = (  # what a checkpoint may hold besides its towers: CoCa's decoder, and facts in OpenAI's own files
    "logit_scale", "logit_bias", "text_decoder.", "input_resolution", "context_length", "vocab_size",
)  # fmt: skip
# Of open_clip's ways to read the answer of a transformers model, those that padding has no part in.
_MASKED_POOLERS = ("ClsPooler", "ClsLastHiddenStatePooler", "MeanPooler")
_POSITION_IDS = "transformer.embeddings.position_ids"  # no longer saved by transformers since 4.31


class OpenClipEncoder:
    """An `Encoder` over open_clip's own modules.

    Raises (when a tower is first used):
        ModelError: the weights are damaged or belong to another architecture.
    """

    engine = "torch"
    known: tuple[str, ...] = (_IMAGE_PREFIX, _TEXT_PREFIX, *_PLAIN_TEXT_KEYS, *_BESIDES)  # what tensors begin with

    def __init__(
        self, spec: ModelSpec, *, device: str = "auto", precision: str = "auto", torch_compile: bool = False
    ) -> None:
        """Choose where and how to compute; nothing is loaded yet.

        Raises:
            DeviceError: a device or precision this machine lacks.
        """
        self.spec = spec
        self.device = chosen_device(device)
        self.precision = chosen_precision(precision, self.device)
        self.torch_compile = torch_compile

    @cached_property
    def logit_scale(self) -> float:
        """exp of the checkpoint's `logit_scale`; unitless."""
        scale = self._scalars.get("logit_scale")
        if scale is None:
            raise ModelError(f"{self.spec.weights} has no logit_scale", hint="it is not a CLIP checkpoint")
        try:
            return math.exp(scale)
        except OverflowError as error:
            raise ModelError(f"{self.spec.weights}: its logit_scale, {scale:g}, is out of all range") from error

    @cached_property
    def logit_bias(self) -> float | None:
        """The checkpoint's `logit_bias`; a model built for one whose file lacks it has 0, as in open_clip."""
        return self._scalars.get("logit_bias", 0.0 if self.spec.sigmoid else None)

    @cached_property
    def _scalars(self) -> dict[str, float]:
        state = self._checkpoint.tensors(lambda key: key in ("logit_scale", "logit_bias"))
        for key, tensor in state.items():
            if tensor.numel() != 1:
                raise ModelError(f"{self.spec.weights}: {key} is not one number", hint="it is not a CLIP checkpoint")
        return {key: float(tensor) for key, tensor in state.items()}

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.spec.weights)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids by the model's own tokenizer, and their number before any cut."""
        return self.tokenizer(texts)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The model's own."""
        return tokenizer_for(self.spec)

    def encode_texts(self, tokens: Tokens) -> Array:
        """Token ids → float32 [n, d], rows of length 1."""
        import torch

        _ = self._text  # loaded before, so that it is not taken for too large a batch
        with torch.inference_mode(), self.computing():
            ids = torch.from_numpy(trimmed(tokens.ids, self.text_end)).to(self.device)
            return _array(self.text_features(ids))

    def encode_images(self, pixels: Pixels) -> Array:
        """uint8 [b, height, width, 3] → float32 [b, d], rows of length 1."""
        import torch

        _ = self._visual
        with torch.inference_mode(), self.computing():
            return _array(self.image_features(torch.from_numpy(pixels).to(self.device)))

    def expect_images(self) -> None:
        """Nothing: building a tower keeps Python busy, so that nothing can be done meanwhile."""

    def tower(self, name: str) -> Any:
        """The module of the tower "image" or "text"."""
        return self._visual if name == "image" else self._text

    def text_features(self, ids: "torch.Tensor") -> "torch.Tensor":
        """int64 [n, length] → float32 [n, d], rows of length 1; the length may be cut as `text_end` allows."""
        tower = self._text
        if self.text_end is None or self.text_end.how == "padding":
            return _unit(self._computed(tower, ids))
        mask, length = tower.attn_mask, ids.shape[1]
        tower.attn_mask = mask[:length, :length]
        try:
            return _unit(self._computed(tower, ids))
        finally:
            tower.attn_mask = mask

    def image_features(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """uint8 [b, height, width, 3] → float32 [b, d], rows of length 1."""
        return _unit(self._computed(self._visual, normalise(pixels, self.spec.preprocess)))

    def _computed(self, tower: Any, given: "torch.Tensor") -> Any:
        """The tower on its input, in the chosen precision: on a CPU its weights have it, on a GPU each operation."""
        import torch

        wanted = dtype(self.precision)
        if wanted == torch.float32:
            return tower(given)
        if self.device != "cpu":
            with torch.autocast(self.device.partition(":")[0], dtype=wanted):
                return tower(given)
        return tower(given.to(wanted) if given.is_floating_point() else given)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Turn what torch says of its own troubles into a line for people.

        Raises:
            OutOfMemory: for what is computed at once.
            ModelError: the device lacks an operation, its driver is broken, and the like.
        """
        try:
            with self._exactly():
                yield
        except (RuntimeError, MemoryError) as error:
            if ran_out(error):
                raise OutOfMemory(self.device) from error
            raise ModelError(
                f"{self.spec.name} fails on the device {self.device}: {short(error)}",
                hint=None if self.device == "cpu" else "use --device cpu",
            ) from error

    def _exactly(self) -> AbstractContextManager[None]:
        """Keep cuDNN from giving convolutions in fp32 10 bits of mantissa, as it does if left to itself."""
        if self.precision != "fp32" or not self.device.startswith("cuda"):
            return nullcontext()
        from torch.backends import cudnn

        chosen = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
        return cudnn.flags(**chosen, allow_tf32=False)

    @cached_property
    def text_end(self) -> TextEnd | None:
        """How the text tower finds the end of a text, if nothing after it matters; see `trimmed`."""
        tower = self._text
        if type(tower).__name__ == "HFTextEncoder":  # by name: other towers come without open_clip
            masked = type(tower.pooler).__name__ in _MASKED_POOLERS
            return TextEnd("padding", int(tower.config.pad_token_id)) if masked else None
        pool = getattr(tower, "pool_type", None)
        causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
        if not causal or pool not in ("argmax", "eos"):
            return None
        return TextEnd("largest") if pool == "argmax" else TextEnd("first", int(tower.eos_id))

    @cached_property
    def _visual(self) -> Any:
        import torch
        from open_clip.model import _build_vision_tower

        vision = {**self.spec.config["vision_cfg"]}
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        tower = self._tower(
            lambda: _build_vision_tower(self.spec.config["embed_dim"], vision, self._quick_gelu),
            self._image_state,
            lambda model: model.visual,
        )
        tower = self._reparameterised(tower)
        return torch.compile(tower) if self.torch_compile else tower

    @cached_property
    def _text(self) -> Any:
        from open_clip.model import _build_text_tower

        text = self._text_config()
        return self._tower(
            lambda: _build_text_tower(self.spec.config["embed_dim"], text, self._quick_gelu),
            self._text_state,
            _text_of,
        )

    def _text_config(self) -> dict[str, Any]:
        """As open_clip takes it, a model of transformers by its folder: by its name the network would be asked."""
        text = {**self.spec.config["text_cfg"]}
        if text.get("hf_model_name"):
            folder = hub.text_config(text["hf_model_name"])
            with suppress(OSError, ValueError):  # which transformers says better
                if "auto_map" in json.loads((folder / hub.TEXT_CONFIG).read_text(encoding="utf-8")):
                    raise ModelError(
                        f"the text tower {text['hf_model_name']} of {self.spec.name} is code of its own, which clipzs "
                        "does not run",
                        hint="use a model whose text tower the transformers package knows",
                    )
            text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
        return text

    @property
    def _quick_gelu(self) -> bool:
        return bool(self.spec.config.get("quick_gelu", False))

    def _image_state(self) -> "State":
        found = self._checkpoint.tensors(lambda key: key.startswith(_IMAGE_PREFIX))
        return {key.removeprefix(_IMAGE_PREFIX): tensor for key, tensor in found.items()}

    def _text_state(self) -> "State":
        own = self._checkpoint.tensors(lambda key: key.startswith(_TEXT_PREFIX))
        found = {key.removeprefix(_TEXT_PREFIX): tensor for key, tensor in own.items()}
        found = found or self._checkpoint.tensors(lambda key: key.startswith(_PLAIN_TEXT_KEYS))
        found.pop(_POSITION_IDS, None)
        return found

    def _tower(
        self,
        build: Callable[[], "torch.nn.Module"],
        state: Callable[[], "State"],
        part: Callable[[Any], Any],
    ) -> "torch.nn.Module":
        """Build one tower around its weights; by way of the whole model if they do not fit directly."""
        import torch

        quieten()
        with _loading(self.spec, self.device):
            weights = state()  # first, so that a damaged file is told from one that does not fit
            try:
                if strange := self._checkpoint.tensors(lambda key: not key.startswith(self.known)):
                    raise Mismatch(str(difference({}, strange)))  # an adapter would be left out without a word
                tower = filled(unfilled(build), weights)
            except Exception as direct:
                if ran_out(direct):
                    raise
                log.debug("%s: loading one tower failed (%s); loading the whole model", self.spec.name, short(direct))
                tower = part(self._whole_model(direct))
            tower = tower.eval().requires_grad_(False)
            if self.device == "cpu":
                return tower.to(dtype(self.precision))
            form = torch.channels_last if self.device.startswith("cuda") else torch.preserve_format
            return tower.to(self.device).to(memory_format=form)

    def _whole_model(self, direct: Exception) -> Any:
        import open_clip

        with tempfile.TemporaryDirectory() as folder, transformers_problems(self.spec):
            config = Path(folder) / "open_clip_config.json"
            model_config = {**self.spec.config, "text_cfg": self._text_config()}
            config.write_text(json.dumps({"model_cfg": model_config}, default=list))
            model = None
            try:
                model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
                open_clip.load_checkpoint(model, str(self.spec.weights), weights_only=True)
            except (ImportError, OSError):
                raise
            except Exception as error:
                if ran_out(error):
                    raise
                raise self._misfit(error if model is None else str(self._difference(model)) or direct) from error
            if resized := self._difference(model).resized:
                log.warning("the weights %s are for other sizes and were adapted: %s", self.spec.weights, resized[0])
            return model

    def _difference(self, model: "torch.nn.Module") -> Difference:
        """What tells the tensors of a whole model from those of the checkpoint, whichever way they name its text."""
        found = self._checkpoint.tensors(lambda _: True)
        wanted = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("logit_")}
        named = any(key.startswith(_TEXT_PREFIX) for key in found)
        return difference(
            {key if named else key.removeprefix(_TEXT_PREFIX): tensor for key, tensor in wanted.items()},
            {key: tensor for key, tensor in found.items() if not key.startswith("logit_")},
        )

    def _misfit(self, cause: object) -> ModelError:
        """The failure of weights that do not fit, with the architectures whose weights they look like."""
        shapes = {key: [*tensor.shape] for key, tensor in self._checkpoint.tensors(lambda _: True).items()}
        alike = [name for name in looking_like(shapes) if not self.spec.name.startswith(f"{name}:")]
        looks = f"they look like weights of {' or '.join(alike[:3])}: --model {alike[0]}" if alike else ""
        return ModelError(
            f"the weights {self.spec.weights} do not fit {self.spec.name}: {short(cause)}",
            hint=looks or "do they belong to this architecture? `clipzs models show` tells what is expected",
        )

    def _reparameterised(self, tower: Any) -> Any:
        """FastViT towers (MobileCLIP) fold their training branches into one: the same function, faster."""
        if "fastvit" not in str(self.spec.config["vision_cfg"].get("timm_model_name", "")):
            return tower
        from timm.utils.model import reparameterize_model

        return reparameterize_model(tower)


def normalise(pixels: "torch.Tensor", preprocess: Preprocess) -> "torch.Tensor":
    """uint8 [b, height, width, 3] → float32 [b, 3, height, width], bit-equal to torchvision's."""
    import torch

    mean = pixels.new_tensor(preprocess.mean, dtype=torch.float32)[:, None, None]
    std = pixels.new_tensor(preprocess.std, dtype=torch.float32)[:, None, None]
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def _text_of(model: Any) -> Any:
    """The text tower of a whole model; a plain CLIP is its own."""
    if getattr(model, "text", None) is not None:
        return model.text
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: "torch.Tensor") -> "torch.Tensor":
            features: torch.Tensor = self.model.encode_text(ids)
            return features

    return Text()


def _unit(features: Any) -> "torch.Tensor":
    import torch

    features = features[0] if isinstance(features, (tuple, list)) else features  # CoCa gives its tokens too
    return torch.nn.functional.normalize(features.float(), dim=-1)


def _array(features: "torch.Tensor") -> Array:
    array: Array = features.cpu().numpy()
    return array


@contextmanager
def _loading(spec: ModelSpec, device: str) -> Iterator[None]:
    """Turn memory that ends while a tower is loaded into a line that says so."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise ModelError(
            f"the weights of {spec.name} do not fit into the memory of the device {device}",
            hint=OutOfMemory(device).hint,
        ) from error
