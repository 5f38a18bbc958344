"""open_clip's own tokenizer: the byte pairs of CLIP, read from its vocabulary file. No torch, no open_clip.

The ids are those of `open_clip.tokenizer.SimpleTokenizer`, which `tests/test_tokenizers.py` holds them against.
"""

import gzip
import re
import string
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipzs.encoder import Tokens
from clipzs.errors import ModelError
from clipzs.registry import open_clip_folder

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 48_894  # the file goes on to 262,144; CLIP was trained with the first of them
_BYTES = 540_000  # hold that many lines; the rest, five times as much, is not decompressed
_SPECIAL = ("<start_of_text>", "<end_of_text>")
_END_OF_WORD = "</w>"
_KNOWN = 100_000  # words whose ids are remembered

# What is split off a word, in order of preference; the classes stand for letters, one digit, and all else.
_PARTS = "|".join(_SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|[{letter}]+|[{digit}]|[^\s{letter}{digit}]+"
_ASCII_PARTS = re.compile(_PARTS.format(letter="a-z", digit="0-9"), re.IGNORECASE | re.ASCII)

_PLAIN = re.compile("[ -%'-~]*")  # printable ASCII without "&": neither ftfy nor html.unescape has anything to mend
_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def _mended(text: str) -> str:
    """Wrongly decoded characters and HTML entities put right, as open_clip has it done."""
    if _PLAIN.fullmatch(text):
        return text
    import html

    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _one_spaced(text: str) -> str:
    return " ".join(text.split())


# How texts are cleaned before they are split, by the name of it in a model's config.
CLEAN: dict[str, Callable[[str], str]] = {
    "lower": lambda text: _one_spaced(_mended(text)).lower(),
    "whitespace": lambda text: _one_spaced(_mended(text)),
    "canonicalize": lambda text: _one_spaced(_mended(text).translate(_NO_PUNCTUATION).lower()),
}


class BpeTokenizer:
    """Texts → token ids, as CLIP and most models after it were trained."""

    def __init__(self, *, context_length: int, clean: str = "lower") -> None:
        """Read the vocabulary.

        Args:
            context_length: tokens in a row of ids.
            clean: a key of `CLEAN`.

        Raises:
            ValueError: settings that make no sense.
            ModelError: open_clip's vocabulary file cannot be read.
        """
        if clean not in CLEAN:
            raise ValueError(f"no way to clean texts is named {clean!r}")
        if context_length < 1:
            raise ValueError(f"a context of {context_length} tokens")
        self._settings = {"context_length": context_length, "clean": clean}
        self._context_length = context_length
        self._clean = CLEAN[clean]
        self._ranks = _ranks()
        self._byte_symbols = _byte_symbols()
        self._ids = _first_ids(self._byte_symbols)
        self._start, self._end = (len(self._ids) + _MERGES + number for number in range(len(_SPECIAL)))
        self._special = dict(zip(_SPECIAL, ([self._start], [self._end]), strict=True))
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Token ids, padded with 0, and their number before any cut; a text that is cut still ends in the end token."""
        rows = [self._row(text) for text in texts]
        lengths = tuple(map(len, rows))
        for row in rows:
            if len(row) > self._context_length:
                row[self._context_length - 1 :] = [self._end]
        return Tokens(padded(rows, self._context_length), lengths)

    def stored(self) -> dict[str, Any]:
        """The settings it was made with, as `tokenizers.restored` takes them."""
        return {"kind": "bpe", **self._settings}

    def _row(self, text: str) -> list[int]:
        row = [self._start]
        for word in self._clean(text).split():
            ids = self._known.get(word)
            if ids is None:
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                ids = self._known[word] = self._word(word)
            row += ids
        row.append(self._end)
        return row

    def _word(self, word: str) -> list[int]:
        """Ids of what stands between two spaces: no token reaches across one."""
        parts = _ASCII_PARTS if word.isascii() else _unicode_parts()
        return [number for part in parts.findall(word) for number in self._special.get(part) or self._part(part)]

    def _part(self, part: str) -> list[int]:
        """Ids of a part, its bytes merged pair by pair, each time the pair that stands first in the vocabulary."""
        symbols = [self._byte_symbols[byte] for byte in part.encode()]
        symbols[-1] += _END_OF_WORD
        while len(symbols) > 1:
            ranked = [self._ranks.get(f"{first} {second}", _MERGES) for first, second in pairwise(symbols)]
            rank = min(ranked)
            if rank == _MERGES:
                break
            at = ranked.index(rank)
            first, second = symbols[at : at + 2]
            self._ids[first + second] = 2 * len(self._byte_symbols) + rank
            symbols = _merged(symbols, first, second)
        return [self._ids[symbol] for symbol in symbols]


def _merged(symbols: list[str], first: str, second: str) -> list[str]:
    """
    >>> _merged(["a", "a", "a", "b"], "a", "a")
    ['aa', 'a', 'b']
    """
    result: list[str] = []
    rest = iter(pairwise([*symbols, ""]))
    for symbol, after in rest:
        if symbol == first and after == second:
            result.append(first + second)
            next(rest, None)
        else:
            result.append(symbol)
    return result


def padded(rows: Sequence[Sequence[int]], length: int, *, filler: int = 0, left: bool = False) -> NDArray[np.int64]:
    """Rows of at most `length` ids → int64 [n, length].

    Args:
        rows: n rows of ids.
        length: of each row of the result.
        filler: the id in the places a row leaves free.
        left: whether those come first.
    """
    ids = np.full((len(rows), length), filler, np.int64)
    counts = np.fromiter(map(len, rows), np.int64, len(rows))[:, None]  # [n, 1]
    places = np.arange(length)
    taken = places >= length - counts if left else places < counts  # [n, length]
    ids[taken] = np.fromiter(chain.from_iterable(rows), np.int64, int(counts.sum()))
    return ids


@cache
def _ranks() -> dict[str, int]:
    """The pairs that are merged, "first second", and which goes before which. Their product's id is 512 + rank."""
    path = open_clip_folder() / _VOCABULARY
    try:
        with gzip.open(path) as file:
            text = file.read(_BYTES).decode(errors="ignore")
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="install open_clip_torch anew") from error
    lines = text.split("\n", _MERGES + 1)[1:-1]  # the first line is a heading
    if len(lines) != _MERGES:
        raise ModelError(f"{path} is cut short", hint="install open_clip_torch anew")
    return dict(zip(lines, range(len(lines)), strict=True))


@cache
def _byte_symbols() -> list[str]:
    """One character for each byte: its own where that can be seen, one after U+0100 for all others."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    unseen = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + unseen.index(byte)) for byte in range(256)]


def _first_ids(byte_symbols: list[str]) -> dict[str, int]:
    """Ids of single bytes, within a word and at its end: 0 to 511, in order of their characters."""
    ordered = sorted(byte_symbols)
    return {symbol: number for number, symbol in enumerate([*ordered, *(each + _END_OF_WORD for each in ordered)])}


@cache
def _unicode_parts() -> Any:
    import regex

    return regex.compile(_PARTS.format(letter=r"\p{L}", digit=r"\p{N}"), regex.IGNORECASE)
