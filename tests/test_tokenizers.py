"""Token ids are those of open_clip's own tokenizers, without torch, transformers or open_clip."""

import gzip
import html
import json
import os
import string
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import FAST, LETTERS, WORDS

from clipzs import bpe
from clipzs.backend import BackendTokenizer
from clipzs.bpe import CLEAN, BpeTokenizer, padded
from clipzs.encoder import Tokens
from clipzs.errors import ModelError
from clipzs.modelspec import ModelSpec
from clipzs.preprocess import Preprocess
from clipzs.registry import open_clip_folder
from clipzs.templates import chosen, fill
from clipzs.tokenizers import TransformersTokenizer, restored, tokenizer_for

HEAVY = {"torch", "torchvision", "open_clip", "timm", "transformers", "safetensors"}
WAYS = sorted(CLEAN)
LONG = 1000  # a context in which no text of these tests is cut

NASTY = (
    "", " ", "\n", "\t a \r\n b \x0b c \x0c", "\x00\x01\x1b[31mred\x1b[0m\x7f", "\x1c\x1d\x1e\x1f\x85\xa0",
    "a" * 500, "!?" * 200, "word " * 200, "1234567890 " * 20, "'s", "it's we've I'm they'll he'd I're 't'S'LL",
    "it'ſ ſ \u212a", "<start_of_text>", "<END_of_text> x<end_of_text>y", "</w> a</w>", "_ __ snow_leopard",
    "&amp; &amp;amp; &amp;amp;lt;", "&lt;b&gt; <b> &eacute; &EACUTE;", "&#65;&#x1F600;&#0;&#128;&#xD800;&#x110000;",
    "&notit; &not it; &;&#;& &NewLine;x&Tab;y", "AT&T R&D Q&A", "schÃ¶n Ã© â€œquotedâ€\x9d voilÃ le", "ﬁne ﬂuﬃeﬆ",
    "ＬＯＵＤ　ＮＯＩＳＥＳ ｱｲｳ", "“curly” ‘quotes’ — – …", "cafe\u0301 café", "Größe STRASSE ẞ İstanbul ıI ΣΑΣ ΑΣ. Σ",
    "фото КОШКИ", "一张猫的照片", "猫の写真です。", "고양이 사진", "صورة قطة", "תמונה", "बिल्ली की तस्वीर", "ภาพถ่ายแมว",
    "😀👍🏽 👩‍👩‍👧 🇩🇪 1️⃣", "\ud83d\ude00", "\ud83d lone \udc00", "\ufeffx\ufffex\ufffc", "a\u200bb\u00adc\u2028d\u2029e",
    "½ ² Ⅷ ٣ 𝒳 𐍈 ﷽ \U000e0041 \U0010ffff", "x\u0300\u0301\u0302" * 30, "\u3000全角\u3000", "{} <> % \\ \" ' ` ~ ^",
)  # fmt: skip


@cache
def theirs(clean: str) -> Any:
    """open_clip's own tokenizer."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(clean=clean)


@cache
def ours(clean: str, context_length: int) -> BpeTokenizer:
    return BpeTokenizer(context_length=context_length, clean=clean)


def assert_same(texts: Sequence[str], clean: str, context_length: int) -> None:
    found = ours(clean, context_length)(texts)
    reference = theirs(clean)
    np.testing.assert_array_equal(found.ids, reference(list(texts), context_length).numpy())
    assert found.ids.dtype == np.int64
    assert found.lengths == tuple(len(reference.encode(text)) + 2 for text in texts)


# The byte pairs


@pytest.mark.parametrize("context_length", [1, 2, 3, 8, 77, LONG])
@pytest.mark.parametrize("clean", WAYS)
def test_odd_texts_have_open_clips_ids(clean, context_length):
    assert_same(NASTY, clean, context_length)


@pytest.mark.parametrize("clean", WAYS)
def test_every_template_and_every_imagenet_label_has_open_clips_ids(clean):
    from open_clip import IMAGENET_CLASSNAMES

    names = sorted(path.stem for path in (ROOT / "prompts").glob("*.yaml"))
    templates = list(dict.fromkeys(template for name in names for template in chosen([name])))
    assert len(names) > 40
    labels = IMAGENET_CLASSNAMES[::200]
    texts = [fill(template, label) for template, label in product(templates, labels)]
    texts += [fill(templates[number % len(templates)], label) for number, label in enumerate(IMAGENET_CLASSNAMES)]
    assert_same(texts, clean, 77)


@pytest.mark.parametrize("clean", WAYS)
def test_every_character_has_open_clips_ids(clean):
    """In runs of neighbours, and up to the end of the Latin, Greek, Cyrillic ... symbols also by itself in a word."""
    rare = (*range(0x20000, 0x30000, 31), *range(0xE0000, 0xE0200))  # further Han characters are all of one kind
    points = [chr(point) for point in (*range(0xD800), *range(0xE000, 0x20000), *rare)]
    assert_same(["".join(points[at : at + 64]) for at in range(0, len(points), 64)], clean, LONG)
    assert_same([f"a{char}B {char}1'{char}" for char in points[:0x2C00]], clean, 77)


def test_no_more_words_are_remembered_than_a_service_can_hold(monkeypatch):
    texts = [f"a cat {number}x{number} and a dog" for number in range(40)]
    expected = BpeTokenizer(context_length=77, clean="lower")(texts).ids
    monkeypatch.setattr(bpe, "_KNOWN", 5)
    tokenizer = BpeTokenizer(context_length=77, clean="lower")
    for _ in range(2):
        np.testing.assert_array_equal(tokenizer(texts).ids, expected)
    assert len(tokenizer._known) <= 5


fragments = st.sampled_from([*NASTY, "a", "B", " ", "'", "&", ";", "_", ".", "7", "é", "Ã", "©", "ſ", "</w>", "\u0307"])
texts = st.one_of(
    st.text(max_size=60),
    st.text(string.printable, max_size=120),
    st.lists(fragments, max_size=6).map("".join),
    st.lists(st.one_of(fragments, st.text(max_size=5)), max_size=8).map("".join),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(texts, min_size=1, max_size=4), st.sampled_from(WAYS), st.integers(1, 100))
def test_any_text_has_open_clips_ids(some, clean, context_length):
    found = BpeTokenizer(context_length=context_length, clean=clean)(some)
    np.testing.assert_array_equal(found.ids, theirs(clean)(some, context_length).numpy())
    assert_same(some, clean, context_length)  # and again with words already known


@settings(deadline=None, max_examples=300)
@given(texts, st.sampled_from(WAYS))
def test_texts_are_cleaned_as_by_open_clip(text, clean):
    assert CLEAN[clean](text) == theirs(clean).clean_fn(text)


PLAIN = [char for char in map(chr, range(0x20, 0x7F)) if char != "&"]


def test_no_pair_of_printable_ascii_is_changed_by_the_mending_it_is_spared():
    for text in map("".join, product(PLAIN, PLAIN)):
        assert html.unescape(ftfy.fix_text(text)) == text


@given(st.text(PLAIN))
def test_no_printable_ascii_is_changed_by_the_mending_it_is_spared(text):
    assert html.unescape(ftfy.fix_text(text)) == text


def test_no_texts_give_no_rows():
    found = ours("lower", 77)([])
    assert (found.ids.shape, found.ids.dtype, found.lengths) == ((0, 77), np.int64, ())


def test_ids_of_one_call_are_not_changed_by_the_next():
    tokenizer = BpeTokenizer(context_length=4)
    first = tokenizer(["a photo of a cat and a dog"])
    kept = first.ids.copy()
    tokenizer(["photo"])
    np.testing.assert_array_equal(first.ids, kept)
    np.testing.assert_array_equal(tokenizer(["a photo of a cat and a dog"]).ids, kept)


def test_rows_are_padded_on_either_side():
    assert padded([[1, 2], [], [3, 4, 5]], 3, filler=9).tolist() == [[1, 2, 9], [9, 9, 9], [3, 4, 5]]
    assert padded([[1, 2], [], [3, 4, 5]], 3, filler=9, left=True).tolist() == [[9, 1, 2], [9, 9, 9], [3, 4, 5]]


@pytest.mark.parametrize("options", [{"clean": "no_such_way"}, {"context_length": 0}, {"context_length": -3}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"no_such_way|context of"):
        BpeTokenizer(**{"context_length": 77, **options})


# Which tokenizer a model has


def spec_of(folder: Path | None = None, **text: Any) -> ModelSpec:
    preprocess = Preprocess(size=(8, 8))
    return ModelSpec("a-model", {"embed_dim": 8, "text_cfg": text}, preprocess, tokenizer_dir=folder)


def test_every_built_in_architecture_without_a_transformers_tokenizer_is_tokenised_as_by_open_clip():
    seen = 0
    for path in sorted((open_clip_folder() / "model_configs").glob("*.json")):
        text = json.loads(path.read_text())["text_cfg"]
        if not text.get("hf_tokenizer_name"):
            tokenizer = tokenizer_for(spec_of(**text))
            clean = text.get("tokenizer_kwargs", {}).get("clean", "lower")
            length = text.get("context_length", 77)
            assert tokenizer.stored() == {"kind": "bpe", "context_length": length, "clean": clean}
            seen += 1
    assert seen > 90


@pytest.mark.parametrize(
    "options",
    [{"clean": "no_such_way"}, {"no_such_option": 1}, {"context_length": "many"}, {"context_length": 0}, {"clean": []}],
)
def test_options_that_make_no_sense_are_one_line(options):
    with pytest.raises(ModelError, match="a-model: its tokenizer_kwargs make no sense"):
        tokenizer_for(spec_of(tokenizer_kwargs=options))


@pytest.mark.parametrize("clean", WAYS)
def test_the_byte_pairs_are_restored_from_their_description(clean):
    made = tokenizer_for(spec_of(context_length=20, tokenizer_kwargs={"clean": clean}))
    twin = restored(json.loads(json.dumps(made.stored())))
    assert_equal(twin(NASTY), made(NASTY))
    assert twin.stored() == made.stored()


def assert_equal(found: Tokens, expected: Tokens) -> None:
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.ids.dtype == expected.ids.dtype == np.int64
    assert found.lengths == expected.lengths


# Tokenizers of the transformers package

USES = [
    *(pytest.param(kind, {}, None, id=kind) for kind in FAST),
    *(pytest.param(kind, {"clean": "canonicalize"}, None, id=f"{kind}-canonicalize") for kind in FAST),
    pytest.param("bert", {"strip_sep_token": True}, None, id="bert without its separator"),
    pytest.param("nllb", {"language": "fra_Latn"}, None, id="nllb in French"),
    pytest.param("xlm-roberta", {"clean": "lower"}, "clips", id="xlm-roberta as in clips"),
    pytest.param("roberta", {"strip_sep_token": True}, "clips", id="roberta as in clips"),
]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tokenizer by its kind; made once."""
    root = tmp_path_factory.mktemp("tokenizers")

    def place(kind: str) -> Path:
        if not (root / kind).exists():
            FAST[kind]().save_pretrained(root / kind)
        return root / kind

    return place


@cache
def reference(folder: Path, length: int, mode: str | None, **options: Any) -> Any:
    from open_clip.tokenizer import HFTokenizer

    if "language" in options:  # open_clip's own option has no effect: transformers goes back to src_lang
        options["src_lang"] = options.pop("language")
    return HFTokenizer(str(folder), context_length=length, tokenizer_mode=mode, **options)


def spec_for(folder: Path, options: dict[str, Any], mode: str | None, length: int = 16) -> ModelSpec:
    return spec_of(
        folder, context_length=length, hf_tokenizer_name="some/name", tokenizer_kwargs=options, tokenizer_mode=mode
    )


@pytest.mark.parametrize(("kind", "options", "mode"), USES)
def test_a_stored_tokenizer_has_open_clips_ids(saved, kind, options, mode):
    made = tokenizer_for(spec_for(saved(kind), options, mode))
    assert isinstance(made, TransformersTokenizer)
    description = made.stored()
    assert description is not None
    twin = restored(json.loads(json.dumps(description)))
    assert isinstance(twin, BackendTokenizer)
    assert twin.stored() == description
    some = [*NASTY, *(f"a photo of the {word}!" for word in WORDS), "cat " * 13, "cat " * 14, "cat " * 15, "<s> [SEP]"]
    expected = reference(saved(kind), 16, mode, **options)(some).numpy()
    assert len(np.unique(expected)) > 10
    for found in (made(some), twin(some)):
        np.testing.assert_array_equal(found.ids, expected)
    assert_equal(twin(some), made(some))
    assert_equal(twin(some[::-1]), made(some[::-1]))  # no call leaves anything behind for the next


def test_only_the_settings_say_how_a_stored_tokenizer_cuts_and_pads(saved):
    description = tokenizer_for(spec_for(saved("bert"), {}, None)).stored()
    cutting = json.loads(description["tokenizer"])
    cutting["truncation"] = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    cutting["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 7, "pad_type_id": 0,
        "pad_token": "a",
    }  # fmt: skip
    assert_equal(restored({**description, "tokenizer": json.dumps(cutting)})(NASTY), restored(description)(NASTY))


def test_tokens_are_counted_before_any_cut(saved):
    twin = restored(tokenizer_for(spec_for(saved("bert"), {}, None)).stored())
    assert twin(["cat", "cat " * 14, "cat " * 15, "cat " * 100, ""]).lengths == (3, 16, 17, 102, 2)
    clips = restored(tokenizer_for(spec_for(saved("roberta"), {}, "clips")).stored())
    assert clips(["", "ccc", "c" * 13, "c" * 14]).lengths == (3, 6, 16, 17)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize(("kind", "options", "mode"), USES)
def test_any_text_has_open_clips_ids_from_a_stored_tokenizer(saved, twins, kind, options, mode, data):
    words = st.lists(st.sampled_from([*WORDS, *LETTERS, "<s>", "</s>", "[SEP]"]), max_size=30).map(" ".join)
    some = data.draw(st.lists(texts | words, min_size=1, max_size=4))
    expected = reference(saved(kind), 16, mode, **options)(some).numpy()
    np.testing.assert_array_equal(twins(kind, options, mode)(some).ids, expected)


@pytest.fixture(scope="session")
def twins(saved: Callable[[str], Path]) -> Callable[..., BackendTokenizer]:
    """A restored tokenizer by what the uses say; made once."""
    made: dict[str, Any] = {}

    def twin(kind: str, options: dict[str, Any], mode: str | None) -> Any:
        use = f"{kind} {options} {mode}"
        if use not in made:
            made[use] = restored(tokenizer_for(spec_for(saved(kind), options, mode)).stored())
        return made[use]

    return twin


def test_a_tokenizer_written_in_python_works_but_cannot_be_stored(tmp_path):
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    made = tokenizer_for(spec_for(tmp_path, {}, None))
    np.testing.assert_array_equal(made(["cat", "dög"]).ids, reference(tmp_path, 16, None)(["cat", "dög"]).numpy())
    assert made(["cat"]).lengths == (4,)
    assert made.stored() is None


def test_a_tokenizer_with_parts_in_python_cannot_be_stored(saved):
    from tokenizers import pre_tokenizers

    class Letters:
        def pre_tokenize(self, text: Any) -> None:
            text.split(lambda _, part: part.split(" ", "removed"))

    made = tokenizer_for(spec_for(saved("words"), {}, None))
    made._own.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Letters())
    assert made(["cat"]).ids[0, 0] == 2 + WORDS.index("cat")
    assert made.stored() is None


def test_a_tokenizer_whose_class_adds_to_the_ids_cannot_be_stored(saved):
    made = tokenizer_for(spec_for(saved("words"), {}, None))
    own = made._own.tokenizer

    class Prefixed(type(own)):
        """Changes the text in Python, before its backend sees it."""

        def _encode_plus(self, text: list[str], **more: Any) -> Any:
            return super()._encode_plus([f"photo {each}" for each in text], **more)

        _batch_encode_plus = _encode_plus  # its name until transformers 5

    own.__class__ = Prefixed
    assert made(["cat"]).ids[0, :2].tolist() == [2 + WORDS.index("photo"), 2 + WORDS.index("cat")]
    assert made.stored() is None


def test_a_config_that_asks_for_a_token_its_tokenizer_lacks_is_one_line(saved):
    made = tokenizer_for(spec_for(saved("t5"), {"strip_sep_token": True}, None))
    with pytest.raises(ModelError, match="a-model: its tokenizer fails"):
        made(["cat"])


def test_without_the_tokenizers_package_a_stored_tokenizer_says_what_to_install(saved, monkeypatch):
    description = tokenizer_for(spec_for(saved("words"), {}, None)).stored()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModelError, match="needs the tokenizers package") as caught:
        restored(description)
    assert caught.value.hint == "pip install 'clipzs[multilingual]'"


@pytest.mark.parametrize("text", ["", "{}", "not JSON", '{"model": {"type": "NoSuchModel"}}'])
def test_a_stored_tokenizer_that_is_not_understood_is_one_line(saved, text):
    description = tokenizer_for(spec_for(saved("words"), {}, None)).stored()
    with pytest.raises(ModelError, match="the stored tokenizer cannot be read"):
        restored({**description, "tokenizer": text})


# Real processes: what is imported, and what is said of a damaged open_clip

TOKENISE = """
import json, sys
from clipzs.tokenizers import restored
description, texts = json.load(sys.stdin)
tokens = restored(description)(texts)
print(json.dumps([tokens.ids.tolist(), tokens.lengths, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def in_a_process(description: Any, some: Sequence[str], *, path: Path | None = None) -> Any:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [path, ROOT] if path else [ROOT]))}
    return subprocess.run(
        [sys.executable, "-c", TOKENISE],
        input=json.dumps([description, some]), capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


def test_the_byte_pairs_need_no_heavy_package(tmp_path):
    done = in_a_process({"kind": "bpe", "context_length": 77, "clean": "lower"}, NASTY)
    ids, lengths, modules = json.loads(done.stdout)
    np.testing.assert_array_equal(ids, theirs("lower")(list(NASTY)).numpy())
    assert len(lengths) == len(NASTY)
    assert HEAVY & set(modules) == set()
    assert {"ftfy", "regex"} <= set(modules)


def test_plain_english_needs_neither_ftfy_nor_regex():
    prompts = [fill(template, "king's ice-cream, 2nd (left) snow_leopard") for template in chosen(["imagenet80"])]
    done = in_a_process({"kind": "bpe", "context_length": 77, "clean": "lower"}, prompts)
    ids, _, modules = json.loads(done.stdout)
    np.testing.assert_array_equal(ids, theirs("lower")(prompts).numpy())
    assert {*HEAVY, "ftfy", "regex", "tokenizers"} & set(modules) == set()


def test_a_stored_tokenizer_needs_the_tokenizers_package_only(saved):
    description = tokenizer_for(spec_for(saved("bert"), {"strip_sep_token": True}, None)).stored()
    done = in_a_process(description, NASTY)
    ids, _, modules = json.loads(done.stdout)
    expected = reference(saved("bert"), 16, None, strip_sep_token=True)(list(NASTY))
    np.testing.assert_array_equal(ids, expected.numpy())
    assert (HEAVY | {"tokenizers"}) & set(modules) == {"tokenizers"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"not gzip", "cannot be read"),
        ("half", "cannot be read"),
        (gzip.compress(b"heading\na b\n"), "is cut short"),
    ],
    ids=["missing", "another format", "half of it", "few lines"],
)
def test_a_damaged_vocabulary_is_one_line(tmp_path, content, said):
    vocabulary = "bpe_simple_vocab_16e6.txt.gz"
    broken = tmp_path / "open_clip"
    broken.mkdir()
    (broken / "__init__.py").touch()
    if content is not None:
        half = (open_clip_folder() / vocabulary).read_bytes()[:100_000]
        (broken / vocabulary).write_bytes(half if content == "half" else content)
    done = in_a_process({"kind": "bpe", "context_length": 77, "clean": "lower"}, ["cat"], path=tmp_path)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("clipzs.errors.ModelError: ")
    assert vocabulary in line
    assert said in line
