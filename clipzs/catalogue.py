"""The short list of models worth naming, with what a person needs to choose. Facts only.

Accuracy is zero-shot top-1 on ImageNet-1k as published: open_clip's docs/openclip_results.csv, the
perception_models README (PE-Core) and big_vision's README_siglip2. Licences are those of the weights.
"""

from dataclasses import dataclass

from clipzs import defaults

TINY = "tiny"


@dataclass(frozen=True)
class Preset:
    """A model under a short name.

    Attributes:
        name: what to write after --model.
        model: open_clip's NAME:TAG; for the embedded model, its own name.
        accuracy: ImageNet zero-shot top-1 in percent, or None where it was not measured.
        megabytes: size of the download.
        licence: of the weights.
        note: one line to choose by.
    """

    name: str
    model: str
    accuracy: float | None
    megabytes: int
    licence: str
    note: str


PRESETS = (
    Preset(TINY, TINY, None, 0, "CC BY-NC 4.0", "comes with clipzs; coarse everyday classes only"),
    Preset("fast", defaults.MODEL, 72.8, 605, "MIT", "the default"),
    Preset("balanced", "PE-Core-B-16:meta", 78.4, 1790, "Apache-2.0", "better, about 4x the work"),
    Preset("best", "PE-Core-L-14-336:meta", 83.5, 2684, "Apache-2.0", "wants a GPU"),
    Preset(
        "multilingual",
        "ViT-B-16-SigLIP2-256:webli",
        79.1,
        1500,
        "Apache-2.0",
        "about 100 languages; needs clipzs[multilingual]",
    ),
)


def preset(name: str) -> Preset | None:
    """The preset called `name`, in any case, or the one that stands for that model."""
    return next((each for each in PRESETS if name.lower() in (each.name, each.model.lower())), None)
