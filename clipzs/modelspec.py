"""A model, fully described: what `resolve` makes of a name. No torch; no network until the weights are asked for."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clipzs import hub
from clipzs.errors import ModelError
from clipzs.preprocess import Preprocess

HF_HUB = "hf-hub:"
DEFAULT_CONTEXT_LENGTH = 77
_OF_TOKENIZER = re.compile(r"(.*token.*\.json|vocab.*|merges\.txt|.*\.model)").fullmatch


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named_hash(path: Path) -> str | None:
    """The SHA-256 of a file that is named by it, as the hub cache names large ones; None for any other."""
    path = path.resolve()
    return path.name if path.parent.name == "blobs" and len(path.name) == 64 else None


@dataclass(frozen=True)
class Licence:
    """What the publisher of the weights allows.

    Attributes:
        name: e.g. "Apache-2.0".
        commercial: whether commercial use is open to everyone.
        source: where that is stated, for people.
    """

    name: str
    commercial: bool
    source: str


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer of the transformers package among those of a folder."""
    return sorted(path for path in folder.iterdir() if path.is_file() and _OF_TOKENIZER(path.name))


@dataclass(frozen=True)
class ModelSpec:
    """A model, fully described.

    Attributes:
        name: how results name it, e.g. "ViT-B-32:openai".
        config: open_clip's model config (embed_dim, vision_cfg, text_cfg, quick_gelu ...).
        preprocess: what its images go through.
        file: the checkpoint, of a model that is a local file.
        repo: the Hugging Face repository of one that is not, and
        filename: the checkpoint's name in it; None for open_clip's usual names.
        tokenizer_dir: a local-dir model's folder, where its own tokenizer lies.
        allow_pickle: whether the repository's .bin will do.
        sha256: how a file is hashed; `filehashes` has one that remembers.
        backend: which code builds its towers and its tokenizer, "open_clip" or "chinese-clip".
        languages: ISO 639-1 codes of the labels it understands; ("*",) is about 100 or more, () is unknown.
        licence: of the weights; None is unknown.
        sources: name of a described value -> where it came from, for people.
        family: what people call models of its make, e.g. "SigLIP2"; empty is unknown.
    """

    name: str
    config: Mapping[str, Any] = field(repr=False)
    preprocess: Preprocess
    file: Path | None = None
    repo: str = ""
    filename: str | None = None
    tokenizer_dir: Path | None = None
    allow_pickle: bool = False
    sha256: Callable[[Path], str] = field(default=_sha256, repr=False, compare=False)
    backend: str = "open_clip"
    languages: tuple[str, ...] = ()
    licence: Licence | None = None
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    family: str = ""

    @cached_property
    def weights(self) -> Path:
        """The checkpoint on this machine, downloaded now if it has to be.

        Raises:
            ModelUnavailable: neither cached nor downloadable.
        """
        if self.file is not None:
            return self.file
        return hub.weights(self.repo, self.filename, allow_pickle=self.allow_pickle)

    @property
    def local_weights(self) -> Path | None:
        """The checkpoint if it is on this machine already. No network."""
        if self.file is not None:
            return self.file
        return hub.cached_weights(self.repo, self.filename, allow_pickle=self.allow_pickle)

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        return str(self.file) if self.file else f"{HF_HUB}{self.repo}"

    @property
    def context_length(self) -> int:
        """Tokens a prompt may have, its start and end included."""
        return int(self.config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH))

    @property
    def tokenizer(self) -> str:
        """Name of the tokenizer: a Hugging Face one, or open_clip's BPE."""
        name = self.config["text_cfg"].get("hf_tokenizer_name")
        return str(self.tokenizer_dir or name) if name else "open_clip BPE"

    @property
    def sigmoid(self) -> bool:
        """Whether it was trained with a bias for independent probabilities (SigLIP)."""
        return self.config.get("init_logit_bias") is not None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights: what tells two models of one name apart.

        Raises:
            ModelError: they cannot be read.
        """
        path = self.weights.resolve()
        try:
            return named_hash(path) or self.sha256(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from error

    @property
    def bytes_here(self) -> int | None:
        """Size on this machine of the weights and of the tokenizer's own files; None without the weights. No network.

        Raises:
            ModelError: a name no repository can have.
        """
        weights = self.local_weights
        if weights is None:
            return None
        own = self.config["text_cfg"].get("hf_tokenizer_name")
        folder = hub.cached_tokenizer(self.tokenizer) if own else None
        files = [weights, *(tokenizer_files(folder) if folder else [])]
        return sum(path.stat().st_size for path in files)

    def _tokenizer_files(self) -> object:
        """What tells its tokenizer from others: the name of a published one, the files of one in the model's folder."""
        if self.tokenizer_dir is None or not self.config["text_cfg"].get("hf_tokenizer_name"):
            return self.tokenizer
        return [(path.name, self.sha256(path)) for path in tokenizer_files(self.tokenizer_dir)]

    @cached_property
    def digest(self) -> str:
        """Hash of all that determines an embedding but the texts: weights, architecture, tokenizer, preprocessing."""
        described = [self.fingerprint, dict(self.config), self._tokenizer_files(), vars(self.preprocess)]
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=list).encode()).hexdigest()
