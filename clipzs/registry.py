"""open_clip's own lists of architectures and weights, read without importing torch."""

import importlib
import importlib.util
import json
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

from clipzs.errors import ModelError
from clipzs.importing import without


@cache
def model_names() -> tuple[str, ...]:
    """Names of all architectures open_clip has."""
    return tuple(sorted(path.stem for path in (open_clip_folder() / "model_configs").glob("*.json")))


@cache
def tag_table() -> dict[str, dict[str, dict[str, Any]]]:
    """open_clip's table of pretrained weights: architecture → tag → its facts.

    Read from open_clip's own module, loaded on its own: importing the package would import torch,
    torchvision and timm first, which takes seconds.
    """
    alias = "_clipzs_open_clip"
    package = types.ModuleType(alias)
    package.__path__ = [str(open_clip_folder())]
    with without("safetensors.torch", "huggingface_hub"):  # optional there, and slow
        sys.modules[alias] = package
        module = importlib.import_module(f"{alias}.pretrained")
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for name, tag in module.list_pretrained():
        table.setdefault(name, {})[tag] = module.get_pretrained_cfg(name, tag)
    return table


@cache
def open_clip_folder() -> Path:
    """Where the installed package lies; it is found, not imported.

    Raises:
        ModelError: it is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("open_clip is not installed", hint="pip install open_clip_torch")
    return Path(next(iter(spec.submodule_search_locations)))


def architecture(name: str) -> dict[str, Any]:
    """The config of a built-in architecture, one of `model_names`."""
    text = (open_clip_folder() / "model_configs" / f"{name}.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config
