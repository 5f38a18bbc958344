"""Every family of models as rows: small models of the same kind as real ones, compared with open_clip's own code.

A row's config is open_clip's config of the example with its sizes made small and nothing else changed, so that what
is special about a family (activations, pooling, norms, tokenizer, context length, bias) is what is compared.
"""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import models
import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from standins import FAST
from typer.testing import CliRunner

from clipzs.cli import app
from clipzs.resolve import resolve
from clipzs.towers import OpenClipEncoder

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = [EXAMPLES / f"{name}.jpg" for name in ("cat", "coffee", "rocket", "temple")]
LABELS = ("cat", "a cup of coffee", "rocket", "Greek temple on a hill")
TEMPLATE = "a photo of a {}."
LEAST_VARIATION = 2e-4  # between photos and between labels: twenty times what ours and theirs may differ by

# What may differ between a small config and the real one: sizes, and where tokenizers and text configs lie.
SIZES = {
    "embed_dim", "image_size", "layers", "width", "heads", "vocab_size", "attn_pooler_heads", "timm_model_name",
    "hf_model_name",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One example of a family.

    Attributes:
        model: the architecture, as open_clip names it.
        tag: the published weights whose preprocessing and activation are taken; None where there are none.
        suffix: the format of the weights file.
        half: whether the file holds fp16 numbers.
        full: the tower that keeps its real size ("image" or "text"), or "" for none.
    """

    model: str
    tag: str | None
    suffix: str = ".safetensors"
    half: bool = False
    full: str = ""

    @property
    def name(self) -> str:
        """As it is named after --model."""
        return f"{self.model}:{self.tag}" if self.tag else self.model

    def __str__(self) -> str:
        """As a test is named."""
        return self.name


ROWS = [
    Row("RN50", "openai"),
    Row("RN101", "openai", ".pt", half=True),
    Row("RN50x4", "openai", ".bin"),
    Row("ViT-B-32", "openai"),
    Row("ViT-B-16", "openai", ".bin"),
    Row("ViT-L-14", "openai", ".pt"),
    Row("ViT-L-14-336", "openai", half=True),
    Row("ViT-B-32", "laion2b_s34b_b79k", ".bin"),
    Row("ViT-L-14", "laion2b_s32b_b82k"),
    Row("ViT-H-14", "laion2b_s32b_b79k", ".pt", half=True),
    Row("ViT-g-14", "laion2b_s34b_b88k"),
    Row("ViT-bigG-14", "laion2b_s39b_b160k", ".bin"),
    Row("ViT-B-32-256", "datacomp_s34b_b86k"),
    Row("convnext_base_w", "laion2b_s13b_b82k_augreg"),
    Row("convnext_large_d", "laion2b_s26b_b102k_augreg", ".bin"),
    Row("convnext_xxlarge", "laion2b_s34b_b82k_augreg", ".pt"),
    Row("coca_ViT-B-32", "laion2b_s13b_b90k"),
    Row("coca_ViT-L-14", "laion2b_s13b_b90k", ".bin"),
    Row("EVA01-g-14", "laion400m_s11b_b41k", half=True),
    Row("EVA02-B-16", "merged2b_s8b_b131k"),
    Row("EVA02-L-14-336", "merged2b_s6b_b61k", ".pt"),
    Row("EVA02-E-14-plus", "laion2b_s9b_b144k", ".bin"),
    Row("ViT-B-16-SigLIP", "webli"),
    Row("ViT-SO400M-14-SigLIP-384", "webli", ".pt"),
    Row("ViT-B-16-SigLIP-i18n-256", "webli", ".bin"),
    Row("ViT-SO400M-16-SigLIP-i18n-256", "webli"),
    Row("ViT-B-16-SigLIP2-256", "webli"),
    Row("ViT-SO400M-14-SigLIP2-378", "webli", ".bin"),
    Row("ViT-gopt-16-SigLIP2-384", "webli", ".pt", half=True),
    Row("MobileCLIP-S1", "datacompdr"),
    Row("MobileCLIP-S2", "datacompdr", ".pt"),
    Row("MobileCLIP-B", "datacompdr", ".bin"),
    Row("MobileCLIP2-S0", "dfndr2b"),
    Row("MobileCLIP2-S3", "dfndr2b", ".bin"),
    Row("MobileCLIP2-S4", "dfndr2b", ".pt"),
    Row("MobileCLIP2-L-14", "dfndr2b", half=True),
    Row("PE-Core-T-16-384", "meta"),
    Row("PE-Core-B-16", "meta", ".pt"),
    Row("PE-Core-L-14-336", "meta", half=True),
    Row("PE-Core-bigG-14-448", "meta", ".bin"),
    Row("ViTamin-S", "datacomp1b"),
    Row("ViTamin-XL-384", "datacomp1b", ".pt"),
    Row("ViT-L-14-CLIPA", "datacomp1b"),
    Row("ViT-bigG-14-CLIPA-336", "datacomp1b", ".bin"),
    Row("ViT-B-16", "dfn2b", ".pt"),
    Row("ViT-H-14-378-quickgelu", "dfn5b", ".bin", half=True),
    Row("ViT-B-16-quickgelu", "metaclip_fullcc"),
    Row("ViT-bigG-14-quickgelu", "metaclip_fullcc", ".bin"),
    Row("ViT-H-14-worldwide-quickgelu", "metaclip2_worldwide"),
    Row("ViT-bigG-14-worldwide-378", "metaclip2_worldwide", ".pt"),
    Row("ViT-L-14-worldwide", None, ".bin"),
    Row("xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k"),
    Row("xlm-roberta-large-ViT-H-14", "frozen_laion5b_s13b_b90k", ".pt", half=True),
    Row("roberta-ViT-B-32", "laion2b_s12b_b32k", ".bin"),
    Row("nllb-clip-base", "v1"),
    Row("nllb-clip-large-siglip", "mrl", ".bin"),
    Row("mt5-base-ViT-B-32", None, ".pt"),
]


class Differences(NamedTuple):
    """The largest difference from open_clip, of unit-length embeddings and of scores in [0, 1]."""

    image: float
    text: float
    scores: float


# Small configs


def small_config(row: Row, folder: Path) -> dict[str, Any]:
    """open_clip's config of the example, made small but for the towers that stay as they are.

    What its tokenizer and its text config need is put in the folder.
    """
    config = open_clip.get_model_config(row.model)
    if row.tag and open_clip.get_pretrained_cfg(row.model, row.tag).get("quick_gelu"):
        config["quick_gelu"] = True  # as open_clip itself should be told, with force_quick_gelu
    if not row.full:
        config["embed_dim"] = 64
    if row.full != "image":
        _shrink_vision(config["vision_cfg"])
    text = config["text_cfg"]
    if row.full != "text":
        _shrink_transformer(text)
    if "multimodal_cfg" in config:
        _shrink_transformer(config["multimodal_cfg"])
        config["multimodal_cfg"]["attn_pooler_heads"] = 2
    if "hf_tokenizer_name" in text:
        made = FAST[tokenizer_kind(text["hf_tokenizer_name"])]()
        made.save_pretrained(folder)
        text["vocab_size"] = len(made)
        if "hf_model_name" in text:
            _text_config(text["hf_model_name"], len(made), full=row.full == "text").save_pretrained(folder)
            text["hf_model_name"] = str(folder)
            del text["vocab_size"]  # which is the text config's
    return config


def _shrink_transformer(config: dict[str, Any]) -> None:
    width = 64 if config.get("proj_type") == "none" else 32
    for key, value in {"width": width, "heads": 2, "layers": 2}.items():
        if key in config:
            config[key] = value


def _shrink_vision(config: dict[str, Any]) -> None:
    patch = config.get("patch_size") or 16
    if "timm_model_name" in config:
        config["timm_model_name"], config["image_size"] = _small_timm_model(
            config["timm_model_name"], config["image_size"]
        )
    elif isinstance(config["layers"], list):
        config |= {"layers": [2, 1, 1, 1], "width": 16, "image_size": config["image_size"] // 96 * 32}
    else:
        config |= {"layers": 2, "width": 2 * config.get("head_width", 64), "image_size": 4 * patch}
        if "attn_pooler_heads" in config:
            config["attn_pooler_heads"] = 2


_SMALL_VIT = {"depth": 2, "embed_dim": 64, "num_heads": 2}
_FIVE_STAGES = {"layers": (1, 1, 1, 1, 1), "embed_dims": (16, 32, 64, 128, 256)}
_SMALL_TIMM: dict[str, dict[str, Any]] = {  # by the first of these parts that a name has: what its builder is told
    "convnext": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)},
    "eva_giant": {"depth": 2, "embed_dim": 176, "num_heads": 2},
    "eva02": _SMALL_VIT,
    "fastvit_mci3": _FIVE_STAGES,
    "fastvit_mci4": _FIVE_STAGES,
    "fastvit_mci": {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)},
    "vit_base_mci": {"depth": 1},  # its stem is 768 wide
    "vit_pe_core": _SMALL_VIT,
    "_siglip_": _SMALL_VIT,
    "patch14_clip": _SMALL_VIT,
    "vitamin": _SMALL_VIT,
}


def timm_kind(name: str) -> str:
    """Which of `_SMALL_TIMM` a timm model is."""
    return next(part for part in _SMALL_TIMM if part in name)


def _small_timm_model(name: str, image_size: int) -> tuple[str, int]:
    """timm's own builder of a model, registered under a name of its own with small sizes; and its image size."""
    small_name = f"{name}_made_small"
    settings = dict(_SMALL_TIMM[timm_kind(name)])
    if name.startswith("vitamin"):
        from timm.models.vitamin import VitCfg, VitConvCfg

        convolutions = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
        settings["embed_cfg"] = VitCfg((16, 32, 64), (1, 1, 1), 16, convolutions, head_type="1d")
    found = re.search(r"patch(\d+)", name)
    size = 4 * int(found[1]) if found else 64
    if not name.startswith(("convnext", "fastvit")):
        settings["img_size"] = size

    def build(pretrained: bool = False, **more: Any) -> torch.nn.Module:
        return timm.create_model(name, pretrained=pretrained, **settings, **more)

    if not timm.is_model(small_name):
        build.__name__ = small_name
        timm.models.register_model(build)
    return small_name, size


def tokenizer_kind(name: str) -> str:
    """The kind of stand-in for a published tokenizer; see `standins`."""
    kinds = {
        "bert-": "bert", "xlm": "xlm-roberta", "roberta": "roberta", "nllb": "nllb", "mt5": "t5", "SigLIP2": "gemma",
        "SigLIP": "t5",
    }  # fmt: skip
    return next(kind for part, kind in kinds.items() if part in name)


def _text_config(name: str, words: int, *, full: bool) -> Any:
    """A config of the same kind as a published text tower's: a small one, or one as large as XLM-RoBERTa base."""
    import transformers

    bert: dict[str, Any] = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    bert |= {"vocab_size": words, "pad_token_id": 1}
    if not full:
        bert |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if "nllb" in name:
        return transformers.M2M100Config(
            vocab_size=words, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, scale_embedding=True, pad_token_id=1,
        )  # fmt: skip
    if "mt5" in name:
        return transformers.MT5Config(
            vocab_size=words, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
        )
    return transformers.XLMRobertaConfig(**bert) if "xlm" in name else transformers.RobertaConfig(**bert)


# Checkpoints


def write_weights(state: Mapping[str, torch.Tensor], file: Path, *, half: bool = False) -> None:
    """A weights file in the format its name says, as open_clip's users have them."""
    state = {key: value.half() if half and value.is_floating_point() else value for key, value in state.items()}
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)


def write_model(row: Row, folder: Path) -> dict[str, torch.Tensor]:
    """A folder for open_clip's and clipzs' `local-dir:` with config, tokenizer and safetensors; its random weights."""
    facts = open_clip.get_pretrained_cfg(row.model, row.tag) if row.tag else {}
    preprocess = {key: facts[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in facts}
    models.write_config(folder, small_config(row, folder), preprocess)
    state = models.random_state(f"local-dir:{folder}", largest=2e5 if row.full else math.inf)
    write_weights(state, folder / "open_clip_model.safetensors", half=row.half)
    return state


def _is_image(key: str) -> bool:
    return key.startswith("visual.")


def _is_text(key: str) -> bool:
    return not key.startswith(("visual.", "text_decoder.", "logit_"))


# The comparison


def measured(row: Row) -> Differences:
    """clipzs against open_clip on one row: each tower from a file that holds nothing else, and the command's scores."""
    with tempfile.TemporaryDirectory() as place:
        theirs, ours = Path(place, row.model), Path(place, "ours")
        theirs.mkdir()
        state = write_model(row, theirs)
        shutil.copytree(theirs, ours, ignore=shutil.ignore_patterns("*.safetensors"))
        scores, image, text = open_clip_answers(*models.reference(f"local-dir:{theirs}"))
        kind = "sigmoid" if "logit_bias" in state else "softmax"
        weights = ours / f"weights{row.suffix}"
        write_weights({key: state[key] for key in state if _is_image(key)}, weights, half=row.half)
        alone_image = image_embeddings(ours)
        write_weights({key: state[key] for key in state if _is_text(key)}, weights, half=row.half)
        alone_text = text_embeddings(ours)
        write_weights(state, weights, half=row.half)
        return Differences(
            _largest(alone_image, image),
            _largest(alone_text, text),
            _largest(command_scores("--model", f"local-dir:{ours}", "--score", kind), scores),
        )


def open_clip_answers(model: Any, preprocess: Any, tokenizer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [photos, labels], of the kind the model was trained for, and unit embeddings of photos and of labels."""
    with torch.inference_mode():
        image = model.encode_image(torch.stack([preprocess(Image.open(path)) for path in PHOTOS]), normalize=True)
        text = model.encode_text(tokenizer([TEMPLATE.format(label) for label in LABELS]), normalize=True)
        logits = model.logit_scale.exp() * image @ text.T
        bias = getattr(model, "logit_bias", None)
        scores = logits.softmax(dim=-1) if bias is None else torch.sigmoid(logits + bias)
    return scores.numpy(), image.numpy(), text.numpy()


def image_embeddings(folder: Path) -> np.ndarray:
    """float32 [photos, d] of clipzs' encoder; only the image tower is asked for."""
    spec = resolve(f"local-dir:{folder}", allow_pickle=True)
    return OpenClipEncoder(spec).encode_images(np.stack([spec.preprocess(Image.open(path)) for path in PHOTOS]))


def text_embeddings(folder: Path) -> np.ndarray:
    """float32 [labels, d] of clipzs' encoder; only the text tower is asked for."""
    encoder = OpenClipEncoder(resolve(f"local-dir:{folder}", allow_pickle=True))
    return encoder.encode_texts(encoder.tokenize([TEMPLATE.format(label) for label in LABELS]))


def command_scores(*options: object) -> np.ndarray:
    """float [photos, labels] from the JSON lines of `clipzs classify`."""
    words = [part for label in LABELS for part in ("--label", label)]
    fixed = ["--template", TEMPLATE.replace("{}", "<>"), "--engine", "torch", "--json", "--exact-decode", "--no-cache"]
    arguments = ["classify", *PHOTOS, *words, *fixed, "--allow-pickle", *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    return np.array([[dict(map(dict.values, record["scores"]))[label] for label in LABELS] for record in records])


def _largest(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two tables whose rows differ by far more, so that something is compared."""
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    assert np.ptp(theirs, axis=0).max() > LEAST_VARIATION, "the rows are alike: nothing is compared"
    return float(np.abs(ours - theirs).max())
