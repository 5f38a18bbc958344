"""Writing systems: which ones a text uses, and which ones go with a language."""

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

# The first word of a letter's Unicode name → the writing system. What is not here belongs to none: symbols that count
# as letters (µ, ª, ℵ), letters of phonetics, and scripts that no model was trained on.
_OF_NAMES = {
    "LATIN": "Latin",
    "CYRILLIC": "Cyrillic",
    "GREEK": "Greek",
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "BOPOMOFO": "Bopomofo",
    "HIRAGANA": "Hiragana",
    "KATAKANA": "Katakana",
    "KATAKANA-HIRAGANA": "Katakana",
    "HANGUL": "Hangul",
} | {
    name.upper(): name
    for name in (
        "Arabic", "Armenian", "Bengali", "Cherokee", "Coptic", "Devanagari", "Ethiopic", "Georgian", "Gothic",
        "Gujarati", "Gurmukhi", "Hebrew", "Javanese", "Kannada", "Khmer", "Lao", "Malayalam", "Mongolian", "Myanmar",
        "Oriya", "Runic", "Sinhala", "Syriac", "Tamil", "Telugu", "Thaana", "Thai", "Tibetan", "Tifinagh", "Yi",
    )
}  # fmt: skip
_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")

_EVERYWHERE = "Latin"  # names and units are written in it in all languages
# ISO 639-1 code → what else the language is written in.
_OF_LANGUAGES = {
    "zh": ("Han", "Bopomofo"),
    "ja": ("Han", "Hiragana", "Katakana"),
    "ko": ("Hangul", "Han"),
    **dict.fromkeys(
        ("be", "bg", "ba", "ce", "cv", "kk", "ky", "mk", "mn", "os", "ru", "sr", "tg", "tt", "uk"), ("Cyrillic",)
    ),
    "el": ("Greek",),
    **dict.fromkeys(("ar", "fa", "ks", "ku", "ps", "sd", "ug", "ur"), ("Arabic",)),
    **dict.fromkeys(("he", "yi"), ("Hebrew",)),
    **dict.fromkeys(("hi", "mr", "ne", "sa"), ("Devanagari",)),
    **dict.fromkeys(("as", "bn"), ("Bengali",)),
    "pa": ("Gurmukhi", "Arabic"),
    "gu": ("Gujarati",),
    "or": ("Oriya",),
    "ta": ("Tamil",),
    "te": ("Telugu",),
    "kn": ("Kannada",),
    "ml": ("Malayalam",),
    "si": ("Sinhala",),
    "th": ("Thai",),
    "lo": ("Lao",),
    "my": ("Myanmar",),
    "km": ("Khmer",),
    "ka": ("Georgian",),
    "hy": ("Armenian",),
    **dict.fromkeys(("am", "ti"), ("Ethiopic",)),
    **dict.fromkeys(("bo", "dz"), ("Tibetan",)),
    "dv": ("Thaana",),
}
_SCIENCE = "Greek"  # one letter of it is a symbol (β carotene, 10 kΩ), two are a word


def script(character: str) -> str | None:
    """The writing system of a letter; None of everything else: digits, signs, accents, emoji."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "")
    for width in _WIDTHS:
        name = name.removeprefix(width)
    return _OF_NAMES.get(name.partition(" ")[0])


def scripts(text: str) -> set[str]:
    """The writing systems of a text's words."""
    if text.isascii():
        return {_EVERYWHERE} if any(map(str.isalpha, text)) else set()
    letters = [script(character) for character in unicodedata.normalize("NFC", text)]
    found = {one for one in letters if one is not None}
    if (_SCIENCE, _SCIENCE) not in pairwise(letters):
        found.discard(_SCIENCE)
    return found


def written_in(languages: Iterable[str]) -> set[str]:
    """The writing systems of languages, given by their ISO 639-1 codes."""
    return {_EVERYWHERE, *(name for language in languages for name in _OF_LANGUAGES.get(language, ()))}


def foreign(texts: Iterable[str], languages: Sequence[str]) -> set[str]:
    """The writing systems in some texts that none of the languages uses.

    Args:
        texts: any.
        languages: ISO 639-1 codes; nothing is foreign to "*", nor where there are none.
    """
    if not languages or "*" in languages:
        return set()
    return {one for text in texts if not text.isascii() for one in scripts(text)} - written_in(languages)
