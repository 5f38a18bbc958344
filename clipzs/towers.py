"""open_clip models, one tower at a time. The only module that imports torch and open_clip, and only when called.

A tower is built without initialising its weights and takes them straight from the mapped checkpoint file:
a fraction of a second, where `open_clip.create_model` builds, initialises and fills both towers. Where a
checkpoint does not fit a tower as it is (old key layouts, other formats), `create_model` does the work.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipzs.encoder import Tokens
from clipzs.errors import DeviceError, ModelError, ModelUnavailable
from clipzs.resolve import ModelSpec
from clipzs.score import Array

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

log = logging.getLogger("clipzs")

PRECISIONS = ("fp32", "bf16", "fp16")
_PLAIN_TEXT_KEYS = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
_IMAGE_PREFIX, _TEXT_PREFIX = "visual.", "text."


class OpenClipEncoder:
    """An `Encoder` over open_clip's own modules.

    Raises (when a tower is first used):
        ModelError: the weights are damaged or belong to another architecture.
    """

    def __init__(self, spec: ModelSpec, *, device: str = "auto", precision: str = "auto") -> None:
        """Choose where and how to compute; nothing is loaded yet.

        Raises:
            DeviceError: a device or precision this machine lacks.
        """
        self.spec = spec
        self.device = _device(device)
        self.precision = _precision(precision, self.device)

    @cached_property
    def logit_scale(self) -> float:
        """exp of the checkpoint's `logit_scale`; unitless."""
        import math

        scale = self._scalars.get("logit_scale")
        if scale is None:
            raise ModelError(f"{self.spec.weights} has no logit_scale", hint="it is not a CLIP checkpoint")
        return math.exp(scale)

    @cached_property
    def logit_bias(self) -> float | None:
        """The checkpoint's `logit_bias`; a model built for one whose file lacks it has 0, as in open_clip."""
        return self._scalars.get("logit_bias", 0.0 if self.spec.sigmoid else None)

    @cached_property
    def _scalars(self) -> dict[str, float]:
        state = self._state(lambda key: key in ("logit_scale", "logit_bias"))
        return {key: float(tensor.float().reshape(())) for key, tensor in state.items()}

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids by the model's own tokenizer, and their number before any cut."""
        ids = self._tokenizer(list(texts)).numpy()
        return Tokens(ids.astype(np.int64, copy=False), tuple(self._count(text) for text in texts))

    def encode_texts(self, tokens: Tokens) -> Array:
        """Token ids → float32 [n, d], rows of length 1."""
        import torch

        ids = torch.from_numpy(tokens.ids).to(self.device)
        with torch.inference_mode():
            return _unit(_encode_text(self._text, ids))

    def encode_images(self, pixels: Array) -> Array:
        """float32 [b, 3, height, width] → float32 [b, d], rows of length 1."""
        import torch

        with torch.inference_mode():
            images = torch.from_numpy(pixels).to(self.device, _dtype(self.precision))
            return _unit(self._visual(images))

    @cached_property
    def _tokenizer(self) -> Any:
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

        text = self.spec.config["text_cfg"]
        options = {"context_length": self.spec.context_length, **text.get("tokenizer_kwargs", {})}
        if not text.get("hf_tokenizer_name"):
            return SimpleTokenizer(**options)
        with _transformers_problems(self.spec):
            return HFTokenizer(self.spec.tokenizer, tokenizer_mode=text.get("tokenizer_mode"), **options)

    def _count(self, text: str) -> int:
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "encode"):
            return len(tokenizer.encode(text)) + 2
        return len(tokenizer.tokenizer(tokenizer.clean_fn(text)).input_ids)

    @cached_property
    def _visual(self) -> "torch.nn.Module":
        from open_clip.model import _build_vision_tower

        vision = {**self.spec.config["vision_cfg"]}
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        tower = self._tower(
            lambda: _build_vision_tower(self.spec.config["embed_dim"], vision, self._quick_gelu),
            lambda: _without_prefix(self._state(lambda key: key.startswith(_IMAGE_PREFIX)), _IMAGE_PREFIX),
            lambda model: model.visual,
        )
        return self._reparameterised(tower)

    @cached_property
    def _text(self) -> "torch.nn.Module":
        from open_clip.model import _build_text_tower

        text = {**self.spec.config["text_cfg"]}
        if "hf_model_name" in text:
            text["hf_model_pretrained"] = False

        def state() -> "State":
            own = self._state(lambda key: key.startswith(_TEXT_PREFIX))
            found = _without_prefix(own, _TEXT_PREFIX) or self._state(lambda key: key.startswith(_PLAIN_TEXT_KEYS))
            found.pop("transformer.embeddings.position_ids", None)  # no longer saved by transformers since 4.31
            return found

        with _transformers_problems(self.spec):
            return self._tower(
                lambda: _build_text_tower(self.spec.config["embed_dim"], text, self._quick_gelu), state, _text_of
            )

    @property
    def _quick_gelu(self) -> bool:
        return bool(self.spec.config.get("quick_gelu", False))

    def _tower(
        self,
        build: Callable[[], "torch.nn.Module"],
        state: Callable[[], "State"],
        part: Callable[["torch.nn.Module"], "torch.nn.Module"],
    ) -> "torch.nn.Module":
        """Build one tower around its weights; by way of the whole model if they do not fit directly."""
        _quieten()
        try:
            tower = _filled(_unfilled(build), state())
        except (ModelError, MemoryError, ImportError):
            raise
        except Exception as direct:
            log.debug("%s: loading one tower failed (%s); loading the whole model", self.spec.name, _short(direct))
            tower = part(self._whole_model(direct))
        return tower.eval().requires_grad_(False).to(self.device, _dtype(self.precision))

    def _whole_model(self, direct: Exception) -> "torch.nn.Module":
        import open_clip

        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / f"clipzs-{self.spec.digest[:16]}.json"
            config.write_text(json.dumps(dict(self.spec.config), default=list))
            open_clip.add_model_config(config)
            try:
                return open_clip.create_model(config.stem, pretrained=str(self.spec.weights), weights_only=True)
            except Exception as error:
                cause = direct if isinstance(error, (StopIteration, AssertionError)) else error
                raise ModelError(
                    f"the weights {self.spec.weights} cannot be loaded as {self.spec.name}: {_short(cause)}",
                    hint="do they belong to this architecture? `clipzs models show` tells what is expected",
                ) from error
            finally:
                open_clip.factory._MODEL_CONFIG_PATHS.remove(config)

    def _reparameterised(self, tower: "torch.nn.Module") -> "torch.nn.Module":
        """FastViT towers (MobileCLIP) fold their training branches into one: the same function, faster."""
        if "fastvit" not in str(self.spec.config["vision_cfg"].get("timm_model_name", "")):
            return tower
        from timm.utils import reparameterize_model

        folded: torch.nn.Module = reparameterize_model(tower)
        return folded

    def _state(self, wanted: Callable[[str], bool]) -> "State":
        """The tensors of the checkpoint whose key is wanted; mapped, so nothing else is read.

        Raises:
            ModelError: the file is damaged, or a pickle that holds more than tensors.
        """
        path = self.spec.weights
        try:
            if path.suffix == ".safetensors":
                from safetensors import safe_open

                with safe_open(path, framework="pt", device="cpu") as file:
                    return {key: file.get_tensor(key) for key in file.keys() if wanted(key)}  # noqa: SIM118
            return {key: tensor for key, tensor in self._pickled.items() if wanted(key)}
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
        except MemoryError:
            raise
        except Exception as error:
            raise ModelError(
                f"{path} is not a readable checkpoint: {_short(error)}",
                hint="download it again; a cached copy lies in the hub cache",
            ) from error

    @cached_property
    def _pickled(self) -> "State":
        import torch

        path = self.spec.weights
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError) as error:
            if "mmap can only be used" not in str(error):
                raise
            state = torch.load(path, map_location="cpu", weights_only=True)  # files older than torch 1.6
        if isinstance(state, dict) and "state_dict" in state:
            state = state["state_dict"]
        return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _unfilled(build: Callable[[], "torch.nn.Module"]) -> "torch.nn.Module":
    """A tower whose parameters have shapes but no memory.

    Buffers that a checkpoint does not hold (attention masks, rotary tables) must really be computed, so
    a tower with such is built again with only its parameters left empty.
    """
    import torch

    with torch.device("meta"), _timm_quiet():
        tower = build()
    if {name for name, _ in tower.named_buffers()} - tower.state_dict().keys():
        with _empty_parameters(), _timm_quiet():
            tower = build()
    return tower


@contextmanager
def _empty_parameters() -> Iterator[None]:
    """While this lasts, modules of this thread drop the memory of each parameter as it is registered."""
    import torch

    register = torch.nn.Module.register_parameter

    def register_empty(self: "torch.nn.Module", name: str, parameter: "torch.nn.Parameter | None") -> None:
        register(self, name, parameter)
        if parameter is not None and not parameter.is_meta:
            empty = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
            self._parameters[name] = empty

    torch.nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


def _filled(tower: "torch.nn.Module", state: "State") -> "torch.nn.Module":
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    tower.load_state_dict(state, strict=True, assign=True)
    empty = [name for name, tensor in [*tower.named_parameters(), *tower.named_buffers()] if tensor.is_meta]
    if empty:
        raise RuntimeError(f"not filled by the checkpoint: {', '.join(empty[:3])}")
    return tower


def _text_of(model: "torch.nn.Module") -> "torch.nn.Module":
    """The text tower of a whole model; a plain CLIP is its own."""
    text = getattr(model, "text", None)
    if text is not None:
        return text
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: "torch.Tensor") -> "torch.Tensor":
            features: torch.Tensor = self.model.encode_text(ids)
            return features

    return Text()


def _encode_text(tower: "torch.nn.Module", ids: "torch.Tensor") -> "torch.Tensor":
    """Run a text tower, on the shortest context that cannot change the result.

    In a causal tower that reads its answer at the end token, what follows that token has no influence.
    """
    mask = getattr(tower, "attn_mask", None)
    pool = getattr(tower, "pool_type", None)
    if mask is None or pool not in ("argmax", "eos") or getattr(tower, "cls_emb", None) is not None:
        return tower(ids)  # type: ignore[no-any-return]
    ends = ids.argmax(dim=-1) if pool == "argmax" else (ids == tower.eos_id).int().argmax(dim=-1)
    length = int(ends.max()) + 1
    tower.attn_mask = mask[:length, :length]
    try:
        return tower(ids[:, :length])  # type: ignore[no-any-return]
    finally:
        tower.attn_mask = mask


def _unit(features: Any) -> Array:
    import torch

    features = features[0] if isinstance(features, (tuple, list)) else features  # CoCa gives its tokens too
    unit: Array = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
    return unit


def _without_prefix(state: "State", prefix: str) -> "State":
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def _device(name: str) -> str:
    """The device meant by `name`; "auto" is the first GPU, or the CPU.

    Raises:
        DeviceError: unknown, or not on this machine.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise DeviceError(f"unknown device {name!r}", hint="--device takes auto, cpu, cuda, cuda:N or mps")
    import torch

    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and (not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count()):
        raise DeviceError(
            f"device {name} is not available: torch sees {torch.cuda.device_count()} GPUs",
            hint="use --device cpu, or install a torch build for your GPU",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps is not available on this machine", hint="use --device cpu")
    return name


def _precision(name: str, device: str) -> str:
    """The precision meant by `name`; "auto" is fp32.

    Raises:
        DeviceError: unknown, or not possible on this device.
    """
    if name == "auto":
        return "fp32"
    if name not in PRECISIONS:
        raise DeviceError(f"unknown precision {name!r}", hint=f"--precision takes auto, {', '.join(PRECISIONS)}")
    if name == "fp16" and device == "cpu":
        raise DeviceError("fp16 needs a GPU", hint="on a CPU use --precision fp32 or bf16")
    return name


def _dtype(precision: str) -> "torch.dtype":
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@contextmanager
def _transformers_problems(spec: ModelSpec) -> Iterator[None]:
    """Turn what goes wrong inside transformers into a line that says what to do."""
    try:
        yield
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(
            f"{spec.name} needs the transformers package", hint="pip install 'clipzs[multilingual]'"
        ) from error
    except Exception as error:
        text = str(error)
        if "pip install transformers" in text:
            raise ModelError(
                f"{spec.name} needs the transformers package", hint="pip install 'clipzs[multilingual]'"
            ) from error
        raise ModelUnavailable(
            f"the tokenizer {spec.tokenizer} of {spec.name} cannot be loaded: {_short(error)}",
            hint=f"fetch it once with a network: clipzs models pull {spec.name}",
        ) from error


def _quieten() -> None:
    """Keep open_clip from installing a log handler of its own: its first message would."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


@contextmanager
def _timm_quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _short(error: BaseException) -> str:
    """The first line or so of an error that may list every tensor of a model."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:237] + "..."
