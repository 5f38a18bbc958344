"""Heads as files: safetensors, with all that is known of them as JSON in the metadata. Nothing in them is code."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipzs.checkpoint import short
from clipzs.errors import ClipzsError, HeadError, LabelsError
from clipzs.heads import METHODS, Cache, Head, Method
from clipzs.labels import Label, checked, levels, written
from clipzs.modelspec import ModelSpec
from clipzs.resolve import of_anyone
from clipzs.score import Array

SUFFIX = ".safetensors"
FORMAT = 1
_MAKE = "make one: clipzs fit DIR -o head.safetensors"
_KEY = "clipzs.head"  # of the one entry of the metadata; several would be in another order each time
_LARGEST = 1e6
_ROUNDING = 1e-3  # of the length of unit vectors
_LONGEST = 1_000_000_000  # bytes of tensors


@dataclass(frozen=True)
class SavedHead:
    """A head with what its file says of it.

    Attributes:
        head: itself.
        labels: of its c classes, with their groups.
        method: by which it was fitted, with
        setting: names and values, and
        temperature: what its logits were divided by.
        model: the model's name, and
        digest: the hash by which it is known.
        support: how many images of each class it was fitted to.
        accuracy: cross-validated, in [0, 1]; None where there were too few images.
        seed: of the choice of images and of the folds.
        version: of the clipzs that made it.
        path: of its file.
    """

    head: Head
    labels: tuple[Label, ...]
    method: Method
    setting: dict[str, float]
    temperature: float
    model: str
    digest: str
    support: tuple[int, ...]
    accuracy: float | None
    seed: int
    version: str
    path: Path

    def scorer(self, model: ModelSpec) -> Head:
        """The head itself.

        Raises:
            HeadError: it was made with another model than this.
        """
        if self.digest != model.digest:
            other = f"and this is {model.name}" if self.model != model.name else "whose weights or settings were others"
            raise HeadError(
                f"{self.path} was made with {self.model}, {other}", hint=f"use --model {self.model}, or fit it again"
            )
        if self.head.weight.shape[1] != model.config["embed_dim"]:
            raise HeadError(f"{self.path} is damaged: its numbers are not those of {model.name}", hint=_MAKE)
        return self.head

    @property
    def model_to_load(self) -> str:
        """The name of its model, where one can go by it.

        Raises:
            HeadError: it is a file or a repository of anyone's, which no file of unknown origin may choose.
        """
        if of_anyone(self.model):
            raise HeadError(f"{self.path} was made with {self.model}", hint="name that model: --model, --pretrained")
        return self.model

    def agreeing(self, labels: Sequence[Label]) -> tuple[Label, ...]:
        """Its labels, with the groups and thresholds of labels that were given beside it.

        A threshold that was tuned was so for scores without a head, and is left out.

        Raises:
            LabelsError: they are not the same.
        """
        given, own = {label.name: label for label in labels}, {label.name: label for label in self.labels}
        strange = [*(name for name in given if name not in own), *(name for name in own if name not in given)]
        if strange:
            which = "none of its own" if strange[0] in given else "missing"
            raise LabelsError(
                f"other labels than those of {self.path}: {strange[0]!r} is {which}",
                hint="leave the labels out: a head knows its own",
            )
        return tuple(
            replace(
                label,
                groups=given[name].groups or label.groups,
                place=given[name].place,
                threshold=None if given[name].tuned else given[name].threshold,
            )
            for name, label in own.items()
        )

    @property
    def sha256(self) -> str:
        """Of what determines its scores, in hexadecimal."""
        head, hashed = self.head, hashlib.sha256()
        cache = [head.cache.alpha, head.cache.beta, head.cache.answers.tolist()] if head.cache else []
        hashed.update(json.dumps([FORMAT, self.digest, head.names, cache]).encode())
        for tensor in (head.weight, head.bias, *([head.cache.keys] if head.cache else [])):
            hashed.update(np.ascontiguousarray(tensor, "<f4").tobytes())
        return hashed.hexdigest()

    def as_json(self) -> dict[str, Any]:
        """What its metadata says."""
        cache = self.head.cache
        return {
            "format": FORMAT,
            "clipzs": self.version,
            "method": self.method,
            "setting": self.setting,
            "temperature": self.temperature,
            "cache": {"alpha": cache.alpha, "beta": cache.beta} if cache else None,
            "model": self.model,
            "digest": self.digest,
            "labels": [
                {"label": label.name, "group": written(label.groups), "images": images}
                for label, images in zip(self.labels, self.support, strict=True)
            ],
            "accuracy": self.accuracy,
            "seed": self.seed,
        }


def to_bytes(saved: SavedHead) -> bytes:
    """The file; the same bytes for the same head."""
    from safetensors.numpy import save

    head, tensors = saved.head, {}
    tensors["weight"], tensors["bias"] = head.weight, head.bias
    if head.cache:
        tensors["keys"], tensors["answers"] = head.cache.keys, head.cache.answers.astype(np.int32)
    written: bytes = save(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        metadata={_KEY: json.dumps(saved.as_json(), ensure_ascii=False)},
    )
    return written


def read(path: Path) -> SavedHead:
    """A head from its file.

    Raises:
        HeadError: there is none, or it is not whole, not a head, or of a newer format.
    """
    try:
        metadata, tensors = _opened(path)
        return _head(path, metadata, tensors)
    except HeadError:
        raise
    except OSError as error:
        raise HeadError(f"{path}: cannot be read: {error.strerror or short(error)}") from error
    except ClipzsError as error:  # of its labels
        raise HeadError(f"{path}: not a head: {error}", hint=_MAKE) from error
    except Exception as error:  # a damaged file can raise anything from a parser
        raise HeadError(f"{path}: not a head, or damaged: {short(error)}", hint=_MAKE) from error


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata and the tensors by name."""
    from safetensors import safe_open

    if not path.is_file():
        raise HeadError(f"{path}: {'not a file' if path.exists() else 'no such file'}", hint=_MAKE)
    with safe_open(path, framework="np") as file:
        found = (file.metadata() or {}).get(_KEY)
        if found is None:
            raise HeadError(f"{path}: these are weights, but not those of a head", hint=_MAKE)
        metadata = json.loads(found)
        if metadata["format"] != FORMAT:
            raise HeadError(
                f"{path}: made by clipzs {metadata['clipzs']}, in a format that this version cannot read",
                hint="use that version, or fit it again",
            )
        if path.stat().st_size > _LONGEST:
            raise HeadError(f"{path}: a head of {path.stat().st_size:,} bytes is too large")
        return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _head(path: Path, said: dict[str, Any], tensors: dict[str, Any]) -> SavedHead:
    """Checked; raises anything, of which KeyError and its like say what is missing."""
    entries = said["labels"]
    labels = checked([Label(_text(entry["label"]), groups=levels(entry["group"])) for entry in entries])
    weight = _numbers(tensors, "weight", (len(labels), None))
    bias, cache = _numbers(tensors, "bias", (len(labels),)), None
    if said["cache"] is not None:
        keys, answers = _numbers(tensors, "keys", (None, weight.shape[1])), tensors["answers"].astype(np.intp)
        counts = np.bincount(answers, minlength=len(labels))
        if (
            answers.shape != keys.shape[:1]
            or counts.min() < 1
            or len(counts) > len(labels)
            or np.any(np.diff(answers) < 0)
        ):
            raise ValueError("its answers are not those of its keys")
        if np.abs(np.linalg.norm(keys.astype(np.float64), axis=1) - 1).max() > _ROUNDING:
            raise ValueError("its keys are not of length 1")
        cache = Cache(keys, answers, alpha=_number(said["cache"]["alpha"]), beta=_number(said["cache"]["beta"]))
    if said["method"] not in METHODS:
        raise ValueError(f"no method is called {said['method']!r}")
    return SavedHead(
        head=Head(tuple(label.name for label in labels), weight, bias, cache),
        labels=labels,
        method=said["method"],
        setting={_text(name): _number(value) for name, value in said["setting"].items()},
        temperature=_number(said["temperature"]),
        model=_text(said["model"]),
        digest=_text(said["digest"]),
        support=tuple(int(entry["images"]) for entry in entries),
        accuracy=None if said["accuracy"] is None else _number(said["accuracy"]),
        seed=int(said["seed"]),
        version=_text(said["clipzs"]),
        path=path,
    )


def _numbers(tensors: dict[str, Any], name: str, shape: tuple[int | None, ...]) -> Array:
    """A tensor of this shape; None is any length from 1."""
    tensor: Array = tensors[name]
    lengths = zip(tensor.shape, shape, strict=True)
    if tensor.dtype != np.float32 or not all(size == wanted or (wanted is None and size) for size, wanted in lengths):
        raise ValueError(f"{name} is {tensor.dtype} of shape {list(tensor.shape)}")
    if not np.isfinite(tensor).all():
        raise ValueError(f"{name} has numbers that are not finite")
    return tensor


def _number(value: object) -> float:
    """A number that is at least 0, as all in a head are, and not so large that scores overflow."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{value!r} is not a number from 0 to {_LARGEST:g}")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value
