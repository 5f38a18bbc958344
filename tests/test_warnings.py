"""Warnings about labels: one line each, on every run, also when nothing has to be encoded."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipzs.scripts import foreign, scripts

ADVICE = ": use --model multilingual"


def warnings(result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    assert result.stdout
    return result.stderr.splitlines()


def classified(run, cat, *labels: str, options: tuple[object, ...] = ("--model", "tiny")) -> list[str]:
    return warnings(run("classify", cat, *(word for label in labels for word in ("--label", label)), *options))


def test_chinese_labels_of_an_english_model_are_named_with_what_to_use(run, cat):
    assert classified(run, cat, "猫", "狗") == [
        f"warning: tiny knows English; it cannot read the Chinese characters of 猫, 狗{ADVICE}, "
        "or --model cn-clip:ViT-B-16 for Chinese"
    ]


def test_all_scripts_are_in_one_line_and_of_many_labels_the_first(run, cat):
    assert classified(run, cat, "dog", "кошка", "собака", "γάτα", "猫", "고양이") == [
        f"warning: tiny knows English; it cannot read the Chinese, Cyrillic, Greek and Hangul characters of "
        f"кошка, собака, γάτα and 2 more{ADVICE}"
    ]


def test_accents_symbols_emoji_and_digits_are_no_foreign_script(run, cat):
    assert classified(run, cat, "façade", "Größe", "İstanbul", "😀", "42", "β carotene", "10 µm", "½ Å") == []


def test_prompts_count_as_well_as_labels(run, cat):
    lines = classified(run, cat, "cat", "dog", options=("--model", "tiny", "--template", "一张<>的照片"))
    assert len(lines) == 1
    assert "the Chinese characters of cat, dog" in lines[0]


def test_warnings_come_again_when_all_is_cached(run, cat):
    labels = "猫", "Dog", "dog", "word " * 100
    first, second = (classified(run, cat, *labels) for _ in range(2))
    assert first == second
    assert len(first) == 3


def test_quiet_silences_them(run, cat):
    assert classified(run, cat, "猫", "Dog", "dog", options=("--model", "tiny", "--quiet")) == []


def test_a_model_of_unknown_languages_gets_no_warning_of_scripts_but_of_words_its_tokenizer_lacks(run, cat, folder):
    name = f"local-dir:{folder('transformers-tokenizer')}"
    for _ in range(2):  # the second time from the cache
        assert classified(run, cat, "猫 cat", "кошка dog", "temple", options=("--model", name, "-q")) == []
        assert classified(run, cat, "猫 cat", "кошка dog", "temple", options=("--model", name)) == [
            f"warning: {name} has no tokens for words of 猫 cat (猫), кошка dog (кошка): to it they are all the same"
        ]


def test_prompts_over_the_context_length_are_one_line(run, cat):
    labels = [f"{n} {'word ' * 100}" for n in range(40)]
    lines = classified(run, cat, *labels, "cat", options=("--model", "tiny", "--template", "<>"))
    (line,) = (line for line in lines if "almost the same" not in line)  # which they are as well
    assert line.startswith("warning: tiny reads ")
    assert line.count(" (103)") == 3
    assert line.endswith(" and 37 more")


def test_labels_that_read_alike_are_one_line(run, cat):
    labels = [form(word) for word in ("boat", "piano", "apple", "street", "horse") for form in (str.lower, str.upper)]
    assert classified(run, cat, *labels, "cat") == [
        "warning: the model reads these labels as the same text: boat, BOAT; piano, PIANO; "
        "apple, APPLE and 2 more; their score is split"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", {"Latin"}),
        ("кот и cat", {"Cyrillic", "Latin"}),
        ("猫のカフェ", {"Han", "Hiragana", "Katakana"}),
        ("고양이", {"Hangul"}),
        ("قطة", {"Arabic"}),
        ("חתול", {"Hebrew"}),
        ("बिल्ली", {"Devanagari"}),
        ("ภาพแมว", {"Thai"}),
        ("ＡＢＣ ｶﾅ", {"Latin", "Katakana"}),
        ("γάτα", {"Greek"}),
        ("α wolf", {"Latin"}),
        ("100 % 😀 ①", set()),
    ],
)
def test_scripts_of_a_text(text, expected):
    assert scripts(text) == expected


@pytest.mark.parametrize(
    ("languages", "text", "expected"),
    [
        (("zh", "en"), "猫 cat", set()),
        (("zh", "en"), "кошка", {"Cyrillic"}),
        (("ja",), "猫のカフェ", set()),
        (("en",), "猫のカフェ", {"Han", "Hiragana", "Katakana"}),
        (("*",), "кошка 猫", set()),
        ((), "кошка 猫", set()),
    ],
)
def test_what_is_foreign_depends_on_the_languages(languages, text, expected):
    assert foreign([text], languages) == expected


@given(st.text(), st.text())
def test_scripts_of_two_words_are_those_of_both(one, other):
    assert scripts(f"{one} {other}") == scripts(one) | scripts(other)


@given(st.text())
def test_how_accents_are_encoded_makes_no_difference(text):
    assert scripts(unicodedata.normalize("NFD", text)) == scripts(unicodedata.normalize("NFC", text))


@given(st.text(st.characters(max_codepoint=0x24F)))
def test_no_european_spelling_is_foreign_to_english(text):
    assert foreign([text], ("en",)) == set()
