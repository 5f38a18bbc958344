"""Small open_clip models with random weights, as checkpoints on disk: one of every kind that is scored differently."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}

CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT},
    "quickgelu": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "resnet": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "timm-custom-text": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 96,
            "timm_model_name": "test_efficientnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": {**TEXT, "context_length": 32},
    },
    "fastvit": {  # as in MobileCLIP: folded for speed after loading
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {"image_size": 64, "timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": "linear"},
        "text_cfg": {**TEXT, "no_causal_mask": True},
    },
    "rotary": {  # as in EVA02 and PE-Core: tables that no checkpoint holds
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "eva02_tiny_patch14_224",
            "timm_pool": "token",
            "timm_proj": "linear",
        },
        "text_cfg": TEXT,
    },
    "siglip": {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit2", "timm_pool": "avg", "timm_proj": "none"},
        "text_cfg": {
            **TEXT,
            "context_length": 64,
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
    "transformers-tokenizer": {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit2", "timm_pool": "avg", "timm_proj": "none"},
        "text_cfg": {
            **TEXT,
            "context_length": 16,
            "vocab_size": 14,
            "hf_tokenizer_name": "someone/words",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "pool_type": "last",
        },
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {
            **TEXT,
            "context_length": 76,
            "mlp_ratio": 4,
            "dim_head": 16,
            "n_queries": 256,
            "attn_pooler_heads": 2,
        },
    },
}
LEAST_SPREAD = 0.05  # of weights that some architectures initialise to almost nothing
SQUASHED = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}


def checkpoint(kind: str, root: Path) -> Path:
    """A folder for `local-dir:` with a config and random safetensors; made once."""
    folder = root / kind
    if not (folder / "open_clip_model.safetensors").exists():
        folder.mkdir(parents=True)
        preprocess = SQUASHED if kind in ("siglip", "rotary") else {}
        write_config(folder, CONFIGS[kind], preprocess)
        if kind == "transformers-tokenizer":
            word_tokenizer(folder)
        save_file(random_state(f"local-dir:{folder}"), folder / "open_clip_model.safetensors")
    return folder


def write_config(folder: Path, config: dict[str, Any], preprocess: dict[str, Any] | None = None) -> None:
    data = {"model_cfg": config, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(data), encoding="utf-8")


def random_state(name: str, *, largest: float = math.inf) -> dict[str, torch.Tensor]:
    """Weights for an architecture, drawn so that images and texts differ widely and nothing is at its initial value.

    The statistics of BatchNorm and every bias are random too: one that is not loaded shows.

    Args:
        name: as open_clip takes it.
        largest: tensors of more numbers stay as they were initialised, which is random already.
    """
    torch.manual_seed(sum(name.rpartition("/")[2].encode()))
    model = open_clip.create_model(name, pretrained_text=False)
    state = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
    for key, value in state.items():
        if not value.is_floating_point() or value.numel() > largest:
            continue
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key == "logit_scale":
            value.fill_(math.log(37.0))
        elif key == "logit_bias":
            value.fill_(-3.5)
        elif value.ndim < 2 or "gamma" in key:
            value.add_(torch.randn_like(value) * 0.2)
        else:
            value.add_(torch.randn_like(value) * max(float(value.std()), LEAST_SPREAD))
    return state


def reference(name: str, pretrained: str | None = None, **more: Any) -> tuple[Any, Any, Any]:
    """open_clip's own (model, preprocess, tokenizer), as its README says."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained, **more)
    model.eval()
    return model, preprocess, open_clip.get_tokenizer(name)


def altered(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A config with changes; `vision_cfg` and `text_cfg` are merged."""
    result = deepcopy(config)
    for key, value in changes.items():
        result[key] = {**result[key], **value} if isinstance(value, dict) else value
    return result


def word_tokenizer(folder: Path) -> None:
    """A tokenizer of the transformers package, made of a handful of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<unk>",
        "<s>",
        "</s>",
        "a",
        "photo",
        "of",
        "cat",
        "dog",
        "rocket",
        "temple",
        ".",
        "cup",
        "coffee",
    ]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(folder)
