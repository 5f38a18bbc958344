"""Put the towers together as an open_clip model: config and fp16 weights.

``python -m tools.train_tiny.export --data DATA --work WORK --product FOLDER``
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from .common import MODEL, NAME, parser, write_json


def as_open_clip(
    image: dict[str, torch.Tensor], text: dict[str, torch.Tensor], scale: float
) -> dict[str, torch.Tensor]:
    """State dict of ``open_clip.CLIP`` from the two towers' state dicts and the logit scale."""
    state = {f"visual.{name}": value for name, value in image.items() if name.startswith("trunk.")}
    state |= {name: value for name, value in text.items() if name != "attn_mask"}
    state["logit_scale"] = torch.tensor(math.log(scale))
    return {
        n: v.half() if v.is_floating_point() else v for n, v in ((n, v.contiguous().clone()) for n, v in state.items())
    }


def write(folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any] = MODEL) -> Path:
    """Write NAME.json and NAME.safetensors; return the weights' path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(config, folder / f"{NAME}.json")
    path = folder / f"{NAME}.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    return path


def load(folder: Path) -> tuple[Any, Any, Any]:
    """(model, preprocess, tokenizer) from a product folder, through open_clip alone."""
    open_clip.add_model_config(folder / f"{NAME}.json")
    model, _, preprocess = open_clip.create_model_and_transforms(NAME, pretrained=str(folder / f"{NAME}.safetensors"))
    return model.eval(), preprocess, open_clip.get_tokenizer(NAME)


def set_scale(folder: Path, scale: float) -> None:
    """Replace the logit scale in the written weights."""
    from safetensors.torch import load_file

    state = load_file(folder / f"{NAME}.safetensors")
    state["logit_scale"] = torch.tensor(math.log(scale)).half()
    save_file(state, folder / f"{NAME}.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Write the product from the towers' checkpoints in WORK, then load it to see that open_clip takes it."""
    made = parser(__doc__)
    made.add_argument("--product", type=Path, required=True)
    made.add_argument("--image", default="image.pt", help="file in WORK: the image tower")
    made.add_argument("--text", default="text.pt", help="file in WORK: the text tower")
    args = made.parse_args()
    image = torch.load(args.work / args.image, weights_only=False)["ema"]
    text = torch.load(args.work / args.text, weights_only=False)
    scale = float(image["log_scale"].exp())
    path = write(args.product, as_open_clip(image, text.get("ema", text["model"]), scale))
    model, _, _ = load(args.product)
    print(path.stat().st_size, "bytes,", sum(p.numel() for p in model.parameters()), "parameters")


if __name__ == "__main__":
    main()
