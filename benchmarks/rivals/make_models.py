"""One random ViT-B-32 for everybody: `open_clip.safetensors`, and the same weights as transformers wants them.

    python make_models.py FOLDER PHOTO...

Speed does not depend on what a model has learned. But a freshly initialised CLIP gives nearly the same embedding to
every picture, and then all sides would agree whatever they computed; so the image tower's last bias is set such that
different photos get different answers.
"""

import gzip
import json
import sys
from pathlib import Path

import open_clip
import torch
from open_clip.tokenizer import bytes_to_unicode, default_bpe
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize

NAME = "ViT-B-32"
MERGES = 49152 - 256 - 2  # of the vocabulary file, those that CLIP uses
TOLERANCE = 1e-4


def main(folder: Path, photos: list[str]) -> None:
    """Make both, and check that they are the same model."""
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(NAME, pretrained=None)
    model.eval()
    pixels = torch.stack([preprocess(Image.open(photo)) for photo in photos])
    texts = [f"a photo of a {name}." for name in ["cat", "dog", *open_clip.IMAGENET_CLASSNAMES[::4]]]
    with torch.no_grad():
        centre(model, pixels, open_clip.get_tokenizer(NAME)(texts))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip.safetensors")
    other = save_for_transformers(model, folder / "transformers")
    check(model, other, folder / "transformers", pixels, texts)


def centre(model, pixels, ids) -> None:
    """Move the photos' mean embedding out of the directions in which texts lie, by the bias of the last norm.

    Taking the whole mean away would leave embeddings so short that bf16 could not hold them: no trained model is so.
    """
    mean = model.encode_image(pixels).mean(dim=0)  # [d]
    texts = normalize(model.encode_text(ids), dim=-1)
    directions = torch.linalg.svd(texts, full_matrices=False).Vh[: len(mean) // 2]
    shift = -(mean @ directions.T) @ directions
    model.visual.ln_post.bias += shift @ torch.linalg.pinv(model.visual.proj)


def save_for_transformers(model, folder: Path):
    """Convert, and write model, image processor and tokenizer."""
    import transformers

    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "gelu", "projection_dim": 512,
            "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
        },
        vision_config={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 224, "patch_size": 32, "hidden_act": "gelu", "projection_dim": 512,
        },
        projection_dim=512,
    )  # fmt: skip
    other = transformers.CLIPModel(config).eval()
    missing, unexpected = other.load_state_dict(converted(model.state_dict()), strict=False)
    missing = [key for key in missing if not key.endswith("position_ids")]
    if missing or unexpected:
        raise SystemExit(f"not converted: {missing[:3]}, {unexpected[:3]}")
    other.save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    write_vocabulary(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    tokenizer.save_pretrained(folder)
    return other


def converted(state) -> dict[str, torch.Tensor]:
    """open_clip's names and shapes to those of transformers' CLIPModel."""
    image, text = "vision_model.", "text_model."
    new = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        image + "embeddings.class_embedding": state["visual.class_embedding"],
        image + "embeddings.position_embedding.weight": state["visual.positional_embedding"],
        image + "embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        text + "embeddings.token_embedding.weight": state["token_embedding.weight"],
        text + "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    norms = {
        "visual.ln_pre": image + "pre_layrnorm", "visual.ln_post": image + "post_layernorm",
        "ln_final": text + "final_layer_norm",
    }  # fmt: skip
    inside = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    for ours, theirs in (("visual.transformer", image), ("transformer", text)):
        for layer in range(12):
            block, target = f"{ours}.resblocks.{layer}.", f"{theirs}encoder.layers.{layer}."
            norms |= {block + one: target + other for one, other in inside.items()}
            for kind in ("weight", "bias"):
                parts = state[f"{block}attn.in_proj_{kind}"].chunk(3)
                new |= {f"{target}self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", parts, strict=True)}
    return new | {
        f"{new_}.{kind}": state[f"{old}.{kind}"] for old, new_ in norms.items() for kind in ("weight", "bias")
    }


def write_vocabulary(folder: Path) -> None:
    """CLIP's tokenizer files, from the merges that open_clip carries."""
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : MERGES + 1]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def check(model, other, folder: Path, pixels, texts) -> None:
    """The same token ids and, to the tolerance, the same embeddings of length 1."""
    import transformers

    ids = open_clip.get_tokenizer(NAME)(texts)
    read_back = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = read_back(texts, padding=True, return_tensors="pt")
    for row, mask, expected in zip(theirs["input_ids"], theirs["attention_mask"], ids, strict=True):
        length = int(mask.sum())
        if row[:length].tolist() != expected[:length].tolist() or expected[length:].any():
            raise SystemExit("the tokenizers differ")
    with torch.no_grad():
        pairs = [
            (model.encode_image(pixels), other.get_image_features(pixel_values=pixels)),
            (model.encode_text(ids), other.get_text_features(**theirs)),
        ]
    for name, (mine, converted_) in zip(("image", "text"), pairs, strict=True):
        features = getattr(converted_, "pooler_output", converted_)
        difference = float((normalize(mine, dim=-1) - normalize(features, dim=-1)).abs().max())
        print(f"{name} embeddings of open_clip and transformers differ by at most {difference:.1e}")
        if difference > TOLERANCE:
            raise SystemExit("the converted model is another model")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
