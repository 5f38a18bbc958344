"""A model's own tokenizer: the byte pairs of CLIP, BERT's word pieces, or one of the transformers package.

Either can be stored as a description, from which later runs restore it without torch, transformers or open_clip.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from clipzs import hub
from clipzs.backend import INSTALL, BackendSettings, BackendTokenizer, unknown_words
from clipzs.bpe import CLEAN, BpeTokenizer
from clipzs.checkpoint import short
from clipzs.encoder import Tokens
from clipzs.errors import ModelError, ModelUnavailable, UsageProblem
from clipzs.modelspec import ModelSpec

if TYPE_CHECKING:
    from clipzs.chinese import ChineseClip

# A description is given out only if it leads to the same ids for all of these.
_CHECKS = (
    "", " ", "a", "a photo of a cat.", "A Photo of a CAT!", "itap of the 2,048 dogs", "  two\tspaces\n", "don't",
    "snow_leopard (Uncia uncia)", "x" * 50, "word " * 600, "...?!", "1 23 456", "http://example.org/a-b",
    "Ünïcode naïve façade", "Ａ ｗｉｄｅ ﬁ", "cafe\u0301", "Größe ŁÓDŹ İstanbul ΣΑΣ", "“quotes” ‘and’ — dashes",
    "фото кошки", "一张猫的照片", "猫の写真です", "고양이 사진", "صورة قطة", "תמונה של חתול", "बिल्ली", "ภาพถ่ายแมว",
    "😀 👩‍👩‍👧 🇩🇪", "a\u200bb\u00adc\ufeffd", "a\u00a0b\u3000c", "&amp;lt; &eacute; &#x1F600;", "<b>bold</b>",
    "▁ _ ## @@", "𝒳 𐍈 ﷽ ½ ² Ⅷ", "<s> [CLS] x</s> <pad> <unk> [SEP] [PAD] [UNK] [MASK] <mask> <eos> <bos>",
)  # fmt: skip
# Words that a tokenizer of any language tells apart, at least those of one row.
_DIFFERENT = (("cat", "dog"), ("1", "2"), ("猫", "狗"))


class TextTokenizer(Protocol):
    """A model's tokenizer, whatever runs it."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Token ids, int64 [n, context length], and their number before any cut."""

    def stored(self) -> dict[str, Any] | None:
        """What `restored` needs, fit for JSON; None if only the transformers package gives these ids."""


def tokenizer_for(spec: ModelSpec) -> TextTokenizer:
    """The tokenizer a model was trained with.

    Raises:
        ModelUnavailable: it is neither on this machine nor downloadable.
        ModelError: it needs a package that is missing, or its settings make no sense.
        UsageProblem: it is to be told a language that it does not know.
    """
    if spec.backend == "chinese-clip":
        from clipzs.wordpiece import wordpiece_tokenizer  # not needed for any other model

        return wordpiece_tokenizer(cast("ChineseClip", spec))
    text = spec.config["text_cfg"]
    options = {"context_length": spec.context_length, **(text.get("tokenizer_kwargs") or {})}
    try:
        if not text.get("hf_tokenizer_name"):
            return BpeTokenizer(**options)
        language = options.pop("language", None)
        with transformers_problems(spec):
            own = _of_transformers(spec, {"tokenizer_mode": text.get("tokenizer_mode"), **options})
        if language is not None:
            _speak(own, language, spec.name)
        return TransformersTokenizer(own, spec.name, clean=options.get("clean", "whitespace"))
    except (TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"{spec.name}: its tokenizer_kwargs make no sense: {short(error)}") from error


def restored(description: dict[str, Any]) -> TextTokenizer:
    """The tokenizer that was stored, without transformers, torch or open_clip.

    Args:
        description: what its `stored` gave.

    Raises:
        ModelError: the tokenizers package is missing, or does not understand what was stored.
    """
    settings = {key: value for key, value in description.items() if key != "kind"}
    if description["kind"] == "bpe":
        return BpeTokenizer(**settings)
    return BackendTokenizer(BackendSettings(**settings))


class TransformersTokenizer:
    """A tokenizer of the transformers package, used as open_clip uses it."""

    def __init__(self, own: Any, name: str, *, clean: str) -> None:
        """Take open_clip's `HFTokenizer` for the model of that name, and a key of `bpe.CLEAN`."""
        self._own = own
        self._name = name
        self._clean = clean

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Token ids, their number before any cut, and words that have none.

        Raises:
            ModelError: the model's config asks for what its tokenizer has not, such as a token for padding.
        """
        try:
            ids = self._own(list(texts)).numpy()
        except Exception as error:  # open_clip and transformers raise anything
            raise ModelError(f"{self._name}: its tokenizer fails: {short(error)}") from error
        cleaned = [CLEAN[self._clean](text) for text in texts]
        whole = self._own.tokenizer(cleaned, add_special_tokens=not self._adds_ends, verbose=False).input_ids
        unknown = unknown_words(
            cleaned,
            whole,
            getattr(self._own.tokenizer, "unk_token_id", None),
            lambda words: self._own.tokenizer(words, add_special_tokens=False, verbose=False).input_ids,
        )
        lengths = tuple(len(row) + 3 * self._adds_ends for row in whole)
        return Tokens(ids.astype(np.int64, copy=False), lengths, unknown)

    def stored(self) -> dict[str, Any] | None:
        """What `restored` needs; None if that gives other ids, or the tokenizer is written in Python."""
        own = self._own.tokenizer
        if getattr(own, "backend_tokenizer", None) is None:
            return None
        checks = (*_CHECKS, *own.all_special_tokens, " ".join(own.all_special_tokens))
        try:
            expected = self(checks)  # before the backend is read: transformers adjusts it in a call
            twin = BackendTokenizer(self._settings(str(own.backend_tokenizer.to_str())))
            found = twin(checks)
        except Exception:  # ModelError, or Exception itself, of parts written in Python
            return None
        same = np.array_equal(found.ids, expected.ids) and found.lengths == expected.lengths
        return twin.stored() if same else None

    @property
    def _adds_ends(self) -> bool:
        return bool(self._own.tokenizer_mode == "clips")

    def _settings(self, text: str) -> BackendSettings:
        own = self._own.tokenizer
        return BackendSettings(
            tokenizer=text,
            context_length=self._own.context_length,
            clean=self._clean,
            truncation_side=own.truncation_side,
            padding_side=own.padding_side,
            padding=own.pad_token_id,
            split_special_tokens=bool(getattr(own, "split_special_tokens", False)),
            zeroed=own.sep_token_id if self._own.strip_sep_token else None,
            ends=[own.bos_token_id, own.eos_token_id, own.cls_token_id] if self._adds_ends else None,
        )


def _of_transformers(spec: ModelSpec, options: dict[str, Any]) -> Any:
    """From the model's folder or the local hub cache; what is not there is downloaded first."""
    folder = hub.cached_tokenizer(spec.tokenizer)
    if folder is not None:
        try:
            return _from_folder(folder, options)
        except (ImportError, TypeError, AssertionError):
            raise
        except Exception:  # transformers raises anything for a file it does not find
            if os.path.isdir(spec.tokenizer):
                raise
    return _from_folder(hub.tokenizer(spec.tokenizer), options)


def _from_folder(folder: Path, options: dict[str, Any]) -> Any:
    """open_clip's `HFTokenizer`. By the name of a repository in place of a folder, transformers would ask the network.

    Raises:
        ModelError: without its vocabulary transformers makes one that takes every word for unknown, and says nothing.
    """
    from open_clip.tokenizer import HFTokenizer

    own = HFTokenizer(str(folder), **{**options, "trust_remote_code": False})  # else transformers asks on stdout
    if all(len({str(ids) for ids in own.tokenizer(list(words)).input_ids}) == 1 for words in _DIFFERENT):
        raise ModelError(
            f"the tokenizer in {folder} takes all words for the same", hint="its vocabulary is missing or damaged"
        )
    return own


def _speak(own: Any, language: str, name: str) -> None:
    """Tell a tokenizer the language of its texts.

    open_clip's own `set_language` takes any word and changes nothing: transformers goes back to `src_lang` each time.
    """
    codes = [token for token in own.tokenizer.all_special_tokens if re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", token)]
    if not codes or not hasattr(own.tokenizer, "src_lang"):
        raise UsageProblem(f"the tokenizer of {name} needs no --language", hint="it is for NLLB-CLIP; leave it out")
    if language not in codes:
        near = difflib.get_close_matches(language, codes, n=3, cutoff=0.3)
        raise UsageProblem(
            f"{name} knows no language {language!r}; did you mean {', '.join(near)}?"
            if near
            else f"{name} knows no language {language!r}",
            hint="languages are written as in NLLB: zho_Hans, fra_Latn, deu_Latn, jpn_Jpan, arb_Arab …",
        )
    own.tokenizer.src_lang = language


@contextmanager
def transformers_problems(spec: ModelSpec) -> Iterator[None]:
    """Turn what goes wrong inside transformers into a line that says what to do."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if isinstance(error, ImportError) or "pip install transformers" in str(error):
            raise ModelError(f"{spec.name} needs the transformers package", hint=INSTALL) from error
        if isinstance(error, (TypeError, AssertionError)):
            raise
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"the tokenizer {spec.tokenizer} of {spec.name} is code of its own, which clipzs does not run",
                hint="use a model whose tokenizer the transformers package knows",
            ) from error
        raise ModelUnavailable(
            f"the tokenizer {spec.tokenizer} of {spec.name} cannot be loaded: {short(error)}",
            hint=f"fetch it once with a network: clipzs models pull {spec.name}",
        ) from error


def quieten() -> None:
    """Keep open_clip from installing a log handler of its own: its first message would."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
