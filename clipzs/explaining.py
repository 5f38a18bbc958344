"""Why a picture got its label: the margin, each template by itself, other crops, the labels near the answer."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from os import path as os_path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzs import images
from clipzs.classifier import Classifier
from clipzs.decoders import DECODERS, Decoding
from clipzs.defaults import DECIMALS
from clipzs.errors import ImageError, UsageProblem
from clipzs.labels import Label
from clipzs.preprocess import RESIZE_MODES, Preprocess
from clipzs.results import Result, Score, printed
from clipzs.score import Array, normalise
from clipzs.scorers import ZeroShot
from clipzs.templates import fill

CONTENDERS = 20  # labels whose prompts are looked at one by one, the best ones; the others stay as they are
NEAREST = 5  # labels
LONGEST = 1024  # pixels of the longer side of the picture that crops are cut out of and heat is laid on
ZOOM = 2 / 3  # of what the model sees, along each side

OWN_PROMPTS = "(own prompts)"
_ENDS = (("left", "right"), ("top", "bottom"))


@dataclass(frozen=True)
class TemplateEffect:
    """One template.

    Attributes:
        template: with `<>` for the label; `OWN_PROMPTS` for all prompts that come from no template.
        alone: the best label and its score if this were the only template.
        margin: the score of the answer less that of the best other label then; negative if another label wins.
        share: its part in the lead of the answer over the runner-up; all together are 1. None without a lead.
        without: the best label if this template were left out.
    """

    template: str
    alone: Score
    margin: float
    share: float | None
    without: str

    def as_json(self, decimals: int) -> dict[str, Any]:
        """Numbers as they are printed."""
        return {
            "template": self.template,
            "alone": self.alone.as_json(decimals),
            "margin": float(printed(self.margin, decimals)),
            "share": None if self.share is None else round(self.share, 4),
            "without": self.without,
        }


@dataclass(frozen=True)
class CropEffect:
    """One way to cut the picture to the model's frame: the best label then, and the score of the answer.

    Attributes:
        crop: "model" is the model's own; "shortest", "longest" and "squash" as of `Preprocess`; "left", "right", "top"
            and "bottom" are at that end of the picture; "zoom" is the middle of what the model sees.
        seen: (left, top, right, bottom) as shares of the picture's width and height, beyond 0 and 1 where it is padded.
        best: the best label and its score.
        score: of the answer.
    """

    crop: str
    seen: tuple[float, float, float, float]
    best: Score
    score: float

    def as_json(self, decimals: int) -> dict[str, Any]:
        """Numbers as they are printed."""
        return {
            "crop": self.crop,
            "seen": [round(side, 4) for side in self.seen],
            "best": self.best.as_json(decimals),
            "score": float(printed(self.score, decimals)),
        }


@dataclass(frozen=True)
class Near:
    """A label near the answer: the cosine of their embeddings, and its score."""

    label: str
    cosine: float
    score: float


@dataclass(frozen=True)
class Explanation:
    """Of one picture.

    Attributes:
        result: as `Classifier.classify` gives it, with all scores.
        lead: by how much the answer is more similar to the picture than the runner-up, as a cosine.
        templates: in their order.
        crops: the model's own first.
        nearest: labels, nearest first.
        left_out: labels whose prompts were not looked at one by one: all but the best `CONTENDERS`.
        picture: RGB, upright, at most `LONGEST` pixels long.
        pixels: uint8 [height, width, 3], what the model saw of it.
    """

    result: Result
    lead: float
    templates: tuple[TemplateEffect, ...]
    crops: tuple[CropEffect, ...]
    nearest: tuple[Near, ...]
    left_out: int
    picture: Image.Image
    pixels: NDArray[np.uint8]

    @property
    def answer(self) -> Score:
        """The best label and its score."""
        return self.result.scores[0]

    @property
    def runner_up(self) -> Score:
        """The second best label and its score."""
        return self.result.scores[1]

    def as_json(self, decimals: int = DECIMALS) -> dict[str, Any]:
        """The record of `clipzs classify`, and what explains it; numbers as they are printed."""
        return {
            **self.result.as_json(decimals),
            "answer": self.answer.label,
            "runner_up": self.runner_up.label,
            "margin": float(printed(self.answer.score - self.runner_up.score, decimals)),
            "lead": float(printed(self.lead, decimals)),
            "templates": [one.as_json(decimals) for one in self.templates],
            "templates_left_out_labels": self.left_out,
            "crops": [one.as_json(decimals) for one in self.crops],
            "nearest": [
                {
                    "label": one.label,
                    "cosine": float(printed(one.cosine, decimals)),
                    "score": float(printed(one.score, decimals)),
                }
                for one in self.nearest
            ],
        }


def explain(classifier: Classifier, path: str) -> Explanation:
    """Classify one picture and look into it.

    Args:
        classifier: of at least two labels, that keeps all scores and has no head.
        path: of a file; a pipe could not be read more than once.

    Raises:
        ImageError: it cannot be read.
        UsageProblem: too few labels.
    """
    if len(classifier.labels) < 2:
        raise UsageProblem("one label alone needs no explanation", hint="name what else it could be")
    if os_path.exists(path) and not os_path.isfile(path):
        raise ImageError(f"{path}: a picture is read more than once to be explained, which only a file allows")
    preprocess = classifier.model.preprocess
    picture, pixels = _read(path, classifier)
    frames = _frames(picture, preprocess)
    with closing(classifier.embedder.batches([path, *(frame for _, _, frame in frames)])) as batches:
        parts = [(batch, classifier.results(batch)) for batch in batches]
    results = [result for _, some in parts for result in some]
    if results[0].error is not None:
        raise ImageError(f"{path}: {results[0].error}")
    image = parts[0][0].vectors[0].astype(np.float64)
    answer = results[0].scores[0].label
    view = _shares(preprocess.view(*picture.size), picture)
    seen = [("model", view, results[0])]
    seen += [(name, box, result) for (name, box, _), result in zip(frames, results[1:], strict=True)]
    crops = [CropEffect(name, box, one.scores[0], _score_of(answer, one)) for name, box, one in seen]
    templates, lead, left_out = _templates(classifier, image, results[0])
    return Explanation(
        results[0], lead, templates, tuple(crops), _nearest(classifier, results[0]), left_out, picture, pixels
    )


def _read(path: str, classifier: Classifier) -> tuple[Image.Image, NDArray[np.uint8]]:
    """The upright picture, and what the model sees of it, both decoded where files of any origin are."""
    options, preprocess = classifier.options, classifier.model.preprocess
    how = Decoding(preprocess, options.max_megapixels, options.exact_decode, options.image_timeout)
    try:
        pixels = np.frombuffer(DECODERS.decode(path, how), np.uint8).reshape(*preprocess.size, 3)
        width, height = images.upright_size(path, max_megapixels=options.max_megapixels)
        scale = min(1.0, LONGEST / max(width, height))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        whole = DECODERS.decode(path, replace(how, preprocess=replace(preprocess, size=size, resize_mode="squash")))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return Image.frombytes("RGB", size[::-1], whole), pixels


Box = tuple[float, float, float, float]


def _frames(picture: Image.Image, preprocess: Preprocess) -> list[tuple[str, Box, Image.Image]]:
    """Other ways to cut the picture to the model's frame: name, what is seen, the frame. None twice."""
    width, height = picture.size
    found = [("model", preprocess.view(width, height), preprocess.framed(picture))]
    for mode in RESIZE_MODES:
        other = replace(preprocess, resize_mode=mode)
        found.append((mode, other.view(width, height), other.framed(picture)))
    fitted = replace(preprocess, resize_mode="squash")
    left, top, right, bottom = replace(preprocess, resize_mode="shortest").view(width, height)
    for names, room, (across, down) in zip(
        _ENDS, (width - (right - left), height - (bottom - top)), ((1, 0), (0, 1)), strict=True
    ):
        if room >= 1:
            for name, start in zip(names, (0.0, room), strict=True):
                x, y = start * across or left * down, start * down or top * across
                found.append((name, (x, y, x + right - left, y + bottom - top), picture))
    left, top, right, bottom = found[0][1]
    x, y, w, h = (left + right) / 2, (top + bottom) / 2, (right - left) * ZOOM / 2, (bottom - top) * ZOOM / 2
    found.append(("zoom", (max(0, x - w), max(0, y - h), min(width, x + w), min(height, y + h)), picture))
    distinct, known = [], set()
    for name, box, frame in found:
        if frame is picture:
            frame = fitted.framed(picture.resize(preprocess.size[::-1], fitted.resampling, box))
        if frame.tobytes() not in known:
            known.add(frame.tobytes())
            distinct.append((name, _shares(box, picture), frame))
    return distinct[1:]


def _shares(box: Box, picture: Image.Image) -> Box:
    left, top, right, bottom = box
    return left / picture.width, top / picture.height, right / picture.width, bottom / picture.height


def _score_of(label: str, result: Result) -> float:
    return next(one.score for one in result.scores if one.label == label)


@dataclass(frozen=True)
class _Prompt:
    """One text of a label, how much it counts, and the template it comes from."""

    text: str
    weight: float
    template: str


def _prompts(label: Label, texts: Sequence[str], weights: Sequence[float], templates: Sequence[str]) -> list[_Prompt]:
    words = (*([] if label.prompts else [label.name]), *label.aliases)
    made = {fill(template, word): template for template in reversed(templates) for word in words}
    own = {fill(template, label.name) for template in label.prompts}
    return [
        _Prompt(text, weight, OWN_PROMPTS if text in own else made[text])
        for text, weight in zip(texts, weights or [1.0] * len(texts), strict=True)
    ]


def _templates(
    classifier: Classifier, image: NDArray[np.float64], result: Result
) -> tuple[tuple[TemplateEffect, ...], float, int]:
    """Each template by itself and left out; the lead of the answer over the runner-up; how many labels are left out.

    A label's embedding is the mean of its prompts' embeddings, scaled to length 1. So its similarity to the picture
    is a sum over prompts, and the lead of the answer one over templates: their shares are exact.
    """
    names = [label.name for label in classifier.labels]
    row = {name: number for number, name in enumerate(names)}
    best = [row[one.label] for one in result.scores[:CONTENDERS]]
    prompts = {
        number: _prompts(
            classifier.labels[number], classifier.prompts[number], classifier.weights[number], classifier.templates
        )
        for number in best
    }
    texts = list(dict.fromkeys(prompt.text for own in prompts.values() for prompt in own))
    vector = dict(zip(texts, classifier.embedder.texts(texts).astype(np.float64), strict=True))
    labels = classifier.label_vectors.astype(np.float64)
    first, second = best[:2]
    lead = float((labels[first] - labels[second]) @ image)

    def part(number: int, template: str) -> float:
        """What the prompts of one template bring to the similarity of a label."""
        own = prompts[number]
        mean = sum(prompt.weight * vector[prompt.text] for prompt in own)
        mine = sum(prompt.weight * float(vector[prompt.text] @ image) for prompt in own if prompt.template == template)
        return mine / float(np.linalg.norm(mean))

    def scores(keep: "dict[int, list[_Prompt]]") -> Array:
        """Scores of all labels with only these prompts; a label of which none is left stays as it is."""
        changed = labels.astype(np.float32)
        for number, own in keep.items():
            if own:
                mean = sum(prompt.weight * vector[prompt.text] for prompt in own)
                changed[number] = normalise(np.asarray(mean, np.float32))
        scorer = ZeroShot(
            tuple(names),
            changed,
            kind=classifier.options.score,
            scale=classifier.logit_scale,
            bias=classifier.encoder.logit_bias,
        )
        scored: Array = scorer(image[None].astype(np.float32))[0]
        return scored

    effects = []
    for template in dict.fromkeys(prompt.template for own in prompts.values() for prompt in own):
        alone = scores({n: [prompt for prompt in own if prompt.template == template] for n, own in prompts.items()})
        without = scores({n: [prompt for prompt in own if prompt.template != template] for n, own in prompts.items()})
        winner = int(np.argmax(alone))
        effects.append(
            TemplateEffect(
                template,
                Score(names[winner], float(alone[winner])),
                float(alone[first] - np.delete(alone, first).max()),
                (part(first, template) - part(second, template)) / lead if lead > 0 else None,
                names[int(np.argmax(without))],
            )
        )
    return tuple(effects), lead, len(names) - len(best)


def _nearest(classifier: Classifier, result: Result) -> tuple[Near, ...]:
    names = [label.name for label in classifier.labels]
    vectors, answer = classifier.label_vectors, names.index(result.scores[0].label)
    cosines = vectors @ vectors[answer]
    scores = {one.label: one.score for one in result.scores}
    order = [number for number in np.argsort(-cosines, kind="stable").tolist() if number != answer]
    return tuple(Near(names[number], float(cosines[number]), scores[names[number]]) for number in order[:NEAREST])
