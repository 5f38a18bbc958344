"""A model's own tokenizer: open_clip's BPE, or one of the transformers package."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from clipzs import hub
from clipzs.checkpoint import short
from clipzs.encoder import Tokens
from clipzs.errors import ModelError, ModelUnavailable
from clipzs.modelspec import ModelSpec


class Tokenizer:
    """Texts → token ids, as the model was trained.

    Raises:
        ModelUnavailable: it is neither on this machine nor downloadable.
        ModelError: it needs a package that is missing, or its settings make no sense.
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Load it."""
        from open_clip.tokenizer import SimpleTokenizer

        text = spec.config["text_cfg"]
        options = {"context_length": spec.context_length, **(text.get("tokenizer_kwargs") or {})}
        self._own: Any
        try:
            if not text.get("hf_tokenizer_name"):
                self._own = SimpleTokenizer(**options)
            else:
                with transformers_problems(spec):
                    self._own = _of_transformers(spec, {"tokenizer_mode": text.get("tokenizer_mode"), **options})
        except (TypeError, AssertionError) as error:
            raise ModelError(f"{spec.name}: its tokenizer_kwargs make no sense: {short(error)}") from error

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Token ids and their number before any cut."""
        ids = self._own(list(texts)).numpy()
        return Tokens(ids.astype(np.int64, copy=False), tuple(self._count(text) for text in texts))

    def _count(self, text: str) -> int:
        if hasattr(self._own, "encode"):
            return len(self._own.encode(text)) + 2
        return len(self._own.tokenizer(self._own.clean_fn(text)).input_ids)


def _of_transformers(spec: ModelSpec, options: dict[str, Any]) -> Any:
    """From the model's folder or the local hub cache; from the network only when it is not there."""
    from huggingface_hub import constants
    from open_clip.tokenizer import HFTokenizer

    try:
        return HFTokenizer(spec.tokenizer, cache_dir=constants.HF_HUB_CACHE, local_files_only=True, **options)
    except (ImportError, TypeError, AssertionError):
        raise
    except Exception:  # transformers raises anything for a file it does not find
        if spec.tokenizer_dir is not None:
            raise
    hub.require_network(spec.tokenizer, "tokenizer_config.json")
    return HFTokenizer(spec.tokenizer, cache_dir=constants.HF_HUB_CACHE, **options)


@contextmanager
def transformers_problems(spec: ModelSpec) -> Iterator[None]:
    """Turn what goes wrong inside transformers into a line that says what to do."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if isinstance(error, ImportError) or "pip install transformers" in str(error):
            raise ModelError(
                f"{spec.name} needs the transformers package", hint="pip install 'clipzs[multilingual]'"
            ) from error
        if isinstance(error, (TypeError, AssertionError)):
            raise
        raise ModelUnavailable(
            f"the tokenizer {spec.tokenizer} of {spec.name} cannot be loaded: {short(error)}",
            hint=f"fetch it once with a network: clipzs models pull {spec.name}",
        ) from error


def quieten() -> None:
    """Keep open_clip from installing a log handler of its own: its first message would."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
