"""What people write for a model, taken apart into an architecture and a tag; and what they may have meant."""

import difflib
import os
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from clipzs import catalogue
from clipzs.errors import UnknownModel, UsageProblem
from clipzs.lookalike import architectures_of
from clipzs.registry import model_names, tag_table

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
SEVERAL = 3  # names in a message
_CLOSE = 0.6  # share of letters two names have in common, from where one may be a slip for the other

# As OpenAI writes its own models, on the hub too: they are these weights, where open_clip would want a tag.
OPENAI = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
    "openai/clip-vit-base-patch32": "ViT-B-32",
    "openai/clip-vit-base-patch16": "ViT-B-16",
    "openai/clip-vit-large-patch14": "ViT-L-14",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336",
}
# Beginnings of tags of one architecture, the more accurate on ImageNet first (open_clip's docs/openclip_results.csv).
_BEST_FIRST = (
    "dfn5b", "dfn2b_s39b", "dfn2b", "metaclip_altogether", "datacomp_xl", "metaclip_fullcc", "laion2b_s34b", "laion2b",
    "openai", "metaclip_400m", "datacomp", "laion400m",
)  # fmt: skip


def parsed(model: str, pretrained: str | None) -> tuple[str, str | None]:
    """A model's architecture as open_clip spells it, and the tag or file that was named with it, if any.

    Understands NAME, NAME:TAG and NAME/TAG; a slash for a dash (ViT-B/32), any case, and OpenAI's own names.

    Raises:
        UnknownModel: no such architecture; the message names the nearest.
        UsageProblem: two sets of weights are named.
    """
    name, colon, tag = model.partition(":")
    given = tag if colon else None
    known = {each.lower(): each for each in model_names()}
    of_openai = {theirs.lower(): ours for theirs, ours in OPENAI.items()}.get(name.lower())
    architecture = of_openai or known.get(_plain(name))
    if architecture is None and "/" in name and given is None:
        head, _, last = name.rpartition("/")
        architecture, given = known.get(_plain(head)), last
    if architecture is None:
        raise _unknown(model)
    if pretrained and given is not None and given != pretrained:
        raise UsageProblem(f"two sets of weights named: {given} and {pretrained}", hint="name one")
    if pretrained or given is not None:
        return architecture, pretrained or given
    return architecture, "openai" if of_openai else None


def known_tag(architecture: str, tag: str) -> str | None:
    """The tag as open_clip's table has it, or None; case, dashes and underscores are all the same."""
    clean = tag.lower().replace("-", "_")
    return clean if clean in tag_table().get(architecture, {}) else None


def only_tag(architecture: str) -> str:
    """The tag of an architecture that need not be named: a preset's, or the only one.

    Raises:
        UnknownModel: there are several, or none.
    """
    preset = next((each.model for each in catalogue.PRESETS if each.model.split(":")[0] == architecture), None)
    if preset is not None:
        return preset.split(":")[1]
    tags = list(tag_table().get(architecture, {}))
    if len(tags) == 1:
        return tags[0]
    if not tags:
        raise UnknownModel(f"{architecture} has no published weights", hint="name a checkpoint: --pretrained FILE")
    raise UnknownModel(
        f"{architecture} has {len(tags)} sets of weights; name one, such as {_best(architecture)}",
        hint=_all_of(architecture),
    )


def published(part: str) -> list[str]:
    """Names of all published models, or of those a person means by a part of their name.

    Args:
        part: a preset, an architecture (then only its own weights), or any part, in any case, with * for anything.

    Raises:
        UnknownModel: no name has it.
    """
    from clipzs.chinese import PUBLISHED, SCHEMA  # not needed to resolve names

    preset = catalogue.preset(part)
    if preset is not None:
        return [preset.model]
    every = {f"{name}:{tag}": f"{name}:{tag}".lower() for name, tags in tag_table().items() for tag in tags}
    every |= {f"{SCHEMA}{name}": _plain(f"{SCHEMA}{name} {model.repo}") for name, model in PUBLISHED.items()}
    own = [name for name, words in every.items() if words.startswith(f"{_plain(part)}:")]
    found = own or [name for name, words in every.items() if fnmatchcase(words, f"*{_plain(part)}*")]
    if not found:
        raise UnknownModel(f"no published model has {part!r} in its name", hint="`clipzs models list --all` shows all")
    return found


def unknown_tag(architecture: str, tag: str) -> UnknownModel:
    """The failure of a tag the architecture does not have, or of a weights file that is not there."""
    tags = tag_table().get(architecture, {})
    if Path(tag).suffix in WEIGHT_SUFFIXES or "/" in tag:
        return UnknownModel(f"no such weights file: {tag}", hint="name a file that exists, or a tag of " + architecture)
    if not tags:
        return UnknownModel(
            f"{architecture} has no published weights, nor is there a file {tag!r}",
            hint="name a checkpoint: --pretrained FILE",
        )
    elsewhere = [name for name, theirs in tag_table().items() if tag.lower() in theirs]
    alike = [name for name in elsewhere if name.startswith(architecture)] or _nearest(architecture, elsewhere)
    near = [f"{architecture}:{each}" for each in _nearest(tag, tags)] + [f"{name}:{tag.lower()}" for name in alike]
    instead = _did_you_mean(near[:SEVERAL]) or f"; it has {_best(architecture)}"
    return UnknownModel(f"{architecture} has no weights {tag!r}{instead}", hint=_all_of(architecture))


def _unknown(model: str) -> UnknownModel:
    """The failure of a name that is no architecture, with what it may have been meant as."""
    from clipzs.chinese import PUBLISHED, SCHEMA  # needed here only

    name, _, tag = model.partition(":")
    if model and os.path.isdir(model):
        return UnknownModel(f"unknown model {model!r}: it is a folder", hint=f"--model local-dir:{model}")
    if Path(model).suffix in WEIGHT_SUFFIXES and os.path.isfile(model):
        return UnknownModel(
            f"unknown model {model!r}: it is a weights file",
            hint=architecture_hint(Path(model), f"--pretrained {model}"),
        )
    table = tag_table()
    names = [*model_names(), *(preset.name for preset in catalogue.PRESETS), *(f"{SCHEMA}{each}" for each in PUBLISHED)]
    near = [f"{each}:{tag}" if tag in table.get(each, {}) else each for each in _nearest(_plain(name), names)]
    with suppress(UnknownModel):
        near = published(name)[:SEVERAL] if name else []
    hint = "`clipzs models list` shows the recommended ones, `clipzs models list PART` those with PART in their name"
    if name.count("/") == 1 and not near:
        hint = f"a repository of the Hugging Face hub is written hf-hub:{name}"
    return UnknownModel(f"unknown model {name!r}{_did_you_mean(near)}", hint=hint)


def architecture_hint(weights: Path, options: str = "--pretrained …") -> str:
    """The next thing to try for weights whose architecture was not named."""
    near = architectures_of(weights)
    looks = f"its tensors look like {' or '.join(near)}: " if near else "name its architecture: "
    return f"{looks}--model {near[0] if near else 'ViT-B-32'} {options}"


def _plain(name: str) -> str:
    return name.lower().replace("/", "-").replace("@336px", "-336")


def _best(architecture: str) -> str:
    def rank(tag: str) -> int:
        return next((rank for rank, start in enumerate(_BEST_FIRST) if tag.startswith(start)), len(_BEST_FIRST))

    return ", ".join(f"{architecture}:{tag}" for tag in sorted(tag_table()[architecture], key=rank)[:SEVERAL])


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    by_lower = {each.lower(): each for each in known}
    return [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower, n=SEVERAL, cutoff=_CLOSE)]


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean {', '.join(near)}?" if near else ""


def _all_of(architecture: str) -> str:
    return f"`clipzs models list {architecture}` shows all of them"
