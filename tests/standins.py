"""Tokenizers of the transformers package, of every class open_clip's models have, with a handful of words."""

import json
import string
from collections.abc import Callable
from typing import Any

WORDS = ["a", "photo", "of", "the", "cat", "dog", "rocket", "temple", "cup", "coffee", "bird"]
LETTERS = [*string.ascii_lowercase, *".,!?'<>/", "é", "猫"]
PIECES = [("▁", -9.0), *((char, -9.0) for char in LETTERS), *((f"▁{word}", -3.0) for word in WORDS)]


def _byte_level() -> dict[str, Any]:
    """Vocabulary and merges of a byte-level BPE, trained on the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    model = json.loads(made.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def _bert() -> Any:
    from transformers import BertTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{char}" for char in LETTERS)]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})


def _t5() -> Any:
    from transformers import T5TokenizerFast

    return T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *PIECES], extra_ids=0)


def _xlm_roberta() -> Any:
    from transformers import XLMRobertaTokenizerFast

    return XLMRobertaTokenizerFast(vocab=[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *PIECES])


def _nllb() -> Any:
    from transformers import NllbTokenizerFast

    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(piece for piece, _ in PIECES)]
    return NllbTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])


def _gemma() -> Any:
    from transformers import GemmaTokenizerFast

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(piece for piece, _ in PIECES)]
    return GemmaTokenizerFast(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[], padding_side="right", add_bos_token=False, add_eos_token=True,
    )  # fmt: skip


def _roberta(**more: Any) -> Any:
    from transformers import RobertaTokenizerFast

    return RobertaTokenizerFast(**_byte_level(), **more)


def _left() -> Any:
    """Cut and padded on the left, names of special tokens read as plain text: as none of open_clip's models is."""
    return _roberta(padding_side="left", truncation_side="left", split_special_tokens=True)


def _words() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(["<pad>", "<unk>", *WORDS])}, "<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")


FAST: dict[str, Callable[[], Any]] = {
    "bert": _bert, "t5": _t5, "gemma": _gemma, "xlm-roberta": _xlm_roberta, "nllb": _nllb, "roberta": _roberta,
    "left": _left, "words": _words,
}  # fmt: skip
