"""The tokenizer of Chinese-CLIP: BERT's word pieces, from the vocabulary that comes with the model."""

from clipzs.backend import INSTALL, BackendSettings, BackendTokenizer
from clipzs.bert import PADDING
from clipzs.checkpoint import short
from clipzs.chinese import TOKENIZER, VOCABULARY, ChineseClip
from clipzs.errors import ModelError

_PADDING = "[PAD]"


def wordpiece_tokenizer(spec: ChineseClip) -> BackendTokenizer:
    """The tokenizer of a model. Its ids are those of transformers' BertTokenizer; texts are not mended first.

    Raises:
        ModelUnavailable: the vocabulary is neither on this machine nor downloadable.
        ModelError: it is damaged or another model's, or the tokenizers package is missing.
    """
    path = spec.vocabulary
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {short(error)}") from error
    try:
        from tokenizers import BertWordPieceTokenizer, Tokenizer

        if path.name == TOKENIZER:
            made = Tokenizer.from_str(text)
        else:
            words = {word: number for number, word in enumerate(text.removesuffix("\n").split("\n"))}
            made = BertWordPieceTokenizer(words, lowercase=True)
    except ImportError as error:
        raise ModelError(f"{spec.name} needs the tokenizers package", hint=INSTALL) from error
    except Exception as error:  # the package raises nothing more special
        raise ModelError(f"{path} is not the vocabulary of a BERT: {short(error)}") from error
    size, known = made.get_vocab_size(), spec.config["text_cfg"]["vocab_size"]
    if size > known or made.token_to_id(_PADDING) != PADDING:
        raise ModelError(
            f"{path} is another model's vocabulary: of {size} words, where {spec.name} knows {known}",
            hint=f"put the {VOCABULARY} that belongs to the weights beside them",
        )
    return BackendTokenizer(
        BackendSettings(
            tokenizer=made.to_str(),
            context_length=spec.context_length,
            clean=None,
            truncation_side="right",
            padding_side="right",
            padding=PADDING,
            split_special_tokens=False,
            zeroed=None,
            ends=None,
        )
    )
