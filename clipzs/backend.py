"""A tokenizer of the transformers package, run by the small tokenizers package alone. No torch, no transformers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from clipzs.bpe import CLEAN, padded
from clipzs.encoder import Tokens
from clipzs.errors import ModelError

INSTALL = "pip install 'clipzs[multilingual]'"
_UNKNOWN = ("<unk>", "[UNK]")  # what stands for a word that has no tokens; where bytes are tokens, it never does


@dataclass(frozen=True)
class BackendSettings:
    """A tokenizer of the transformers package, and how open_clip uses it.

    Attributes:
        tokenizer: the text of its tokenizer.json.
        context_length: tokens in a row of ids.
        clean: a key of `bpe.CLEAN`; None leaves texts as they are.
        truncation_side: "right" or "left", where a text too long is cut, and
        padding_side: where a short one is filled up, with
        padding: the id for that.
        split_special_tokens: whether names of special tokens in a text are read as plain text.
        zeroed: the id that is replaced with 0 (`strip_sep_token`).
        ends: ids of the start, the end and the last place, of a model of open_clip's mode "clips".
    """

    tokenizer: str = field(repr=False)
    context_length: int
    clean: str | None
    truncation_side: str
    padding_side: str
    padding: int
    split_special_tokens: bool
    zeroed: int | None
    ends: Sequence[int] | None


class BackendTokenizer:
    """A tokenizer of the transformers package, run by the tokenizers package alone."""

    def __init__(self, settings: BackendSettings) -> None:
        """Build it.

        Raises:
            ModelError: the tokenizers package is missing, or does not understand what was stored.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ModelError("this model needs the tokenizers package", hint=INSTALL) from error
        try:
            self._backend = Tokenizer.from_str(settings.tokenizer)
        except Exception as error:  # the package raises nothing more special
            raise ModelError(f"the stored tokenizer cannot be read: {error}", hint=INSTALL) from error
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = settings.split_special_tokens
        ids = map(self._backend.token_to_id, _UNKNOWN)
        self._unknown = next((number for number in ids if number is not None), None)
        self._settings = settings

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Token ids, their number before any cut, and words that have none."""
        clean = self._settings.clean
        cleaned = [CLEAN[clean](text) for text in texts] if clean else list(texts)
        return self._with_ends(cleaned) if self._settings.ends else self._as_it_is(cleaned)

    def stored(self) -> dict[str, Any]:
        """What it was made from."""
        return {"kind": "backend", **asdict(self._settings)}

    def _as_it_is(self, texts: list[str]) -> Tokens:
        settings = self._settings
        rows = self._rows(texts)
        lengths = tuple(map(len, rows))
        unknown = self._unknown_words(texts, rows)
        long = [number for number, length in enumerate(lengths) if length > settings.context_length]
        for number, row in zip(long, self._cut([texts[number] for number in long]), strict=True):
            rows[number] = row
        left = settings.padding_side == "left"
        ids = padded(rows, settings.context_length, filler=settings.padding, left=left)
        if settings.zeroed is not None:
            ids[ids == settings.zeroed] = 0
        return Tokens(ids, lengths, unknown)

    def _cut(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts that are too long; special tokens are put around what is left of them."""
        settings = self._settings
        self._backend.enable_truncation(settings.context_length, direction=settings.truncation_side)
        try:
            return self._rows(texts)
        finally:
            self._backend.no_truncation()

    def _with_ends(self, texts: list[str]) -> Tokens:
        start, end, last = self._settings.ends or ()
        length = self._settings.context_length
        found = self._rows(texts, special=False)
        ids = padded([[start, *row[: length - 3], end] for row in found], length, filler=self._settings.padding)
        ids[:, -1] = last
        return Tokens(ids, tuple(len(row) + 3 for row in found), self._unknown_words(texts, found))

    def _unknown_words(self, texts: list[str], rows: list[list[int]]) -> tuple[tuple[str, ...], ...]:
        return unknown_words(texts, rows, self._unknown, lambda words: self._rows(words, special=False))

    def _rows(self, texts: list[str], *, special: bool = True) -> list[list[int]]:
        return [each.ids for each in self._backend.encode_batch_fast(texts, add_special_tokens=special)]


def unknown_words(
    texts: Sequence[str],
    rows: Sequence[Sequence[int]],
    unknown: int | None,
    ids_of: Callable[[list[str]], Sequence[Sequence[int]]],
) -> tuple[tuple[str, ...], ...]:
    """The words of each text that its tokenizer has no tokens for; () if that is none of any.

    Args:
        texts: n texts, cleaned.
        rows: their token ids.
        unknown: the id that stands for what has none; None where everything has.
        ids_of: the ids of words by themselves.
    """
    strange = {number for number, row in enumerate(rows) if unknown is not None and unknown in row}
    if not strange:
        return ()
    words = list(dict.fromkeys(word for number in strange for word in texts[number].split()))
    known = {word for word, ids in zip(words, ids_of(words), strict=True) if unknown not in ids}
    return tuple(
        tuple(dict.fromkeys(word for word in text.split() if word not in known)) if number in strange else ()
        for number, text in enumerate(texts)
    )
