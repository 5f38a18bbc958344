"""Values of a description, each with where it came from: preprocessing, activation, languages, licence."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipzs import families, modelconfig
from clipzs.errors import UsageProblem
from clipzs.modelspec import ModelSpec
from clipzs.preprocess import Preprocess
from clipzs.registry import architecture, model_names, tag_table

log = logging.getLogger("clipzs")

DEFAULTS = "open_clip's defaults"
TABLE = "open_clip's table of weights"


def sources(config: str, **others: str) -> dict[str, str]:
    """`ModelSpec.sources`: most values come from the config, and the others from elsewhere."""
    return dict.fromkeys(("config", "activation", "tokenizer", "context", "scores"), config) | others


def common_preprocess(name: str, config: Mapping[str, Any]) -> tuple[Preprocess, str]:
    """What most published weights of an architecture want, and where that is from."""
    variants = [modelconfig.preprocessing(facts, config) for facts in tag_table().get(name, {}).values()]
    if not variants:
        return modelconfig.preprocessing({}, config), DEFAULTS
    return Counter(variants).most_common(1)[0][0], f"what most published weights of {name} want"


def usual_preprocess(config: Mapping[str, Any]) -> tuple[Preprocess, str]:
    """As `common_preprocess`, of the published architecture whose image tower is the same."""
    same = (name for name in tag_table() if architecture(name)["vision_cfg"] == config["vision_cfg"])
    name = next(same, None)
    return common_preprocess(name, config) if name else (modelconfig.preprocessing({}, config), DEFAULTS)


def known(spec: ModelSpec, family: families.Family | None) -> ModelSpec:
    """The description of published weights with what is known of their family; without one, what can be guessed."""
    if family is None:
        return guessed(spec)
    said = {"languages": families.SOURCE + (f" ({family.note})" if family.note else "")}
    if family.licence:
        said["licence"] = family.licence.source
    return replace(
        spec,
        languages=family.languages,
        licence=family.licence,
        sources={**spec.sources, **said},
        family=family.name,
    )


def guessed(spec: ModelSpec) -> ModelSpec:
    """The description of weights of someone's own: languages by the tokenizer, and no licence."""
    languages = families.languages_of_tokenizer(spec.config)
    said = {"languages": "guessed from the tokenizer"} if languages else {}
    return replace(spec, languages=languages, sources={**spec.sources, **said})


def with_activation(spec: ModelSpec, quick_gelu: bool | None) -> ModelSpec:
    """The description with the activation a person named, if one is named."""
    if quick_gelu is None:
        return spec
    said = {"activation": "--quick-gelu" if quick_gelu else "--no-quick-gelu"}
    return replace(spec, config={**spec.config, "quick_gelu": quick_gelu}, sources={**spec.sources, **said})


def in_language(spec: ModelSpec, language: str) -> ModelSpec:
    """The description of a model whose tokenizer is told which language labels are in.

    Args:
        spec: the model.
        language: as its tokenizer writes languages, e.g. "zho_Hans".

    Raises:
        UsageProblem: its tokenizer is told no language.
    """
    text = spec.config["text_cfg"]
    if not text.get("hf_tokenizer_name"):
        raise UsageProblem(f"{spec.name} needs no --language", hint="it is for NLLB-CLIP; leave it out")
    text = {**text, "tokenizer_kwargs": {**(text.get("tokenizer_kwargs") or {}), "language": language}}
    return replace(spec, config={**spec.config, "text_cfg": text})


def ask_for_activation(name: str, weights: Path) -> None:
    """Warn of a weights file of an architecture that is in use with both activations: nothing in the file tells."""
    if f"{name}-quickgelu" in model_names():
        log.warning(
            "%s is taken to use GELU: if it comes from OpenAI's, MetaCLIP's or DFN's weights, say --quick-gelu; "
            "if not, --no-quick-gelu ends this warning",
            weights,
        )
