"""What all stages share: arguments, model config, pausing, saving."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch

NAME = "clipzs-tiny"
DIM = 256
CONTEXT = 32
MODEL: dict[str, Any] = {
    "embed_dim": DIM,
    "vision_cfg": {
        "image_size": 96,
        "timm_model_name": "cs3darknet_s",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "",
    },
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
MEAN = (0.48145466, 0.4578275, 0.40821073)  # open_clip's defaults
STD = (0.26862954, 0.26130258, 0.27577711)


def parser(text: str | None) -> argparse.ArgumentParser:
    """Arguments that every stage takes."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="folder with train/, val/, eval/")
    made.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--pause-file", type=Path, default=None, help="training sleeps while this file exists")
    return made


def wait_while(path: Path | None) -> float:
    """Sleep as long as ``path`` exists; return the seconds slept."""
    start = time.monotonic()
    while path is not None and path.exists():
        time.sleep(1)
    return time.monotonic() - start


def save(state: dict[str, Any], path: Path) -> None:
    """torch.save that never leaves half a file."""
    half = path.with_suffix(".half")
    torch.save(state, half)
    os.replace(half, path)


def write_json(value: Any, path: Path) -> None:
    """Write ``value`` to ``path`` as JSON, indented by one and ending in a newline."""
    path.write_text(json.dumps(value, indent=1) + "\n")


def cosine(progress: float, floor: float = 0.002) -> float:
    """Learning-rate factor that falls from 1 to ``floor`` as progress goes from 0 to 1."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
