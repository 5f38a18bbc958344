"""Families of models: the languages of their labels and the licence of their weights, by rules on names. Facts only.

What no rule covers stays unknown, and is shown so: a licence is never guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipzs.modelspec import Licence

ENGLISH = ("en",)
MANY = ("*",)  # about a hundred languages or more
SOURCE = "clipzs' table of families"


@dataclass(frozen=True)
class Family:
    """Models of one make.

    Attributes:
        name: what people call them.
        languages: of the labels, as in `ModelSpec`.
        licence: of the published weights; None is unknown.
        note: what else to know of the languages.
    """

    name: str
    languages: tuple[str, ...] = ENGLISH
    licence: Licence | None = None
    note: str = ""


_OPENAI = Licence("MIT", True, "the LICENSE of openai/CLIP; its model card calls any deployed use out of scope")
_OPEN_CLIP = Licence("MIT", True, "the maintainers of open_clip, mlfoundations/open_clip#177")
_LAION = Licence("MIT", True, "the model cards of hf.co/laion")
_EVA = Licence("MIT", True, "the model cards of EVA-CLIP")
_VITAMIN = Licence("MIT", True, "the model cards of hf.co/jienengchen")
_GOOGLE = Licence("Apache-2.0", True, "the model cards of SigLIP")
_CLIPA = Licence("Apache-2.0", True, "the LICENSE and model cards of UCSC-VLAA/CLIPA")
_PE = Licence("Apache-2.0", True, "the model cards of Perception Encoder")
_APPLE = Licence(
    "Apple AMLR, research only", False, "LICENSE_MODELS of apple/ml-mobileclip and the model cards of hf.co/apple"
)
_META = Licence("CC-BY-NC-4.0", False, "the LICENSE and model cards of facebookresearch/MetaCLIP")
_NLLB = Licence("CC-BY-NC-4.0", False, "the model cards of hf.co/visheratin")

# The first rule found in "architecture:tag" names the family. Rules on the architecture hold for weights files too.
_RULES = (
    (r"^mobileclip2-", Family("MobileCLIP2", licence=_APPLE)),
    (r"^mobileclip-", Family("MobileCLIP", licence=_APPLE)),
    (r"^pe-core-", Family("PE-Core", licence=_PE)),
    (r"^vitamin-", Family("ViTamin", licence=_VITAMIN)),
    (r"^eva01-", Family("EVA01", licence=_EVA)),
    (r"^eva02-", Family("EVA02", licence=_EVA)),
    (r"^nllb-clip-", Family("NLLB-CLIP", MANY, _NLLB, "201 languages")),
    (r"siglip2", Family("SigLIP2", MANY, _GOOGLE, "about 100 languages")),
    (r"siglip-i18n", Family("SigLIP i18n", MANY, _GOOGLE, "about 100 languages")),
    (r"siglip", Family("SigLIP", licence=_GOOGLE)),
    (r"-clipa", Family("CLIPA", licence=_CLIPA)),
    (r"-worldwide", Family("MetaCLIP 2", MANY, _META, "more than 300 languages")),
    (r"^xlm-roberta-", Family("XLM-R", MANY, _LAION, "100 languages")),
    (r"^mt5-", Family("mT5", MANY, note="about 100 languages")),
    (r"^(coca_)?roberta-", Family("RoBERTa", licence=_LAION)),
    (r"^coca_", Family("CoCa", licence=_LAION)),
    (r"^convnext_", Family("ConvNeXt", licence=_LAION)),
    (r":openai$", Family("OpenAI CLIP", licence=_OPENAI)),
    (r":metaclip_", Family("MetaCLIP 1", licence=_META)),
    (r":dfn\d", Family("DFN", licence=_APPLE)),
    (r":(datacomp|commonpool)_", Family("DataComp", licence=_LAION)),
    (r":laion2b_", Family("OpenCLIP", licence=_LAION)),
    (r":(laion400m_|yfcc15m$|cc12m$)", Family("OpenCLIP", licence=_OPEN_CLIP)),
)  # fmt: skip

_MULTILINGUAL = re.compile(r"xlm-|nllb|mt5|siglip2|siglip-i18n", re.IGNORECASE)
_ENGLISH = re.compile(r"(^|/)(roberta|bert)-(base|large)(-uncased|-cased)?$|siglip|(^|/)t5-", re.IGNORECASE)


def of_weights(architecture: str, tag: str) -> Family | None:
    """The family of published weights, or None if no rule knows it."""
    named = f"{architecture}:{tag}".lower()
    return next((family for pattern, family in _RULES if re.search(pattern, named)), None)


def of_architecture(architecture: str) -> Family | None:
    """The family whose models alone have this architecture, or None: several share it, or no rule knows it."""
    return of_weights(architecture, "")


def languages_of_tokenizer(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What can be told of the languages by the tokenizer alone; () if that is nothing.

    Args:
        config: an open_clip model config.
    """
    text = config["text_cfg"]
    name = str(text.get("hf_tokenizer_name") or text.get("hf_model_name") or "")
    if not name or (_ENGLISH.search(name) and not _MULTILINGUAL.search(name)):
        return ENGLISH  # without a name it is CLIP's own, whose vocabulary is English
    return MANY if _MULTILINGUAL.search(name) else ()


def in_words(languages: tuple[str, ...]) -> str:
    """Languages for people.

    >>> in_words(("zh", "en"))
    'Chinese and English'
    """
    if not languages:
        return "unknown"
    if languages == MANY:
        return "about 100 languages or more"
    names = {"en": "English", "zh": "Chinese"}
    return " and ".join(names.get(code, code) for code in languages)
