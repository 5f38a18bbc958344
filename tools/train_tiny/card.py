"""Stage 9: MODEL_CARD.md from eval.json and what the work folder knows about the training.

``python -m tools.train_tiny.card --data DATA --work WORK --product FOLDER``
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .common import NAME, parser
from .prompts import ENSEMBLE
from .tables import OFTEN, SHARES, SLICE_EVERY, SLICED
from .targets import BALANCE

SOURCES = {
    "tin": ("Tiny-ImageNet", "ImageNet terms: non-commercial research and education"),
    "miniplaces": ("MiniPlaces", "Places terms"),
    "cifar": ("CIFAR-10", "no explicit licence; research use customary"),
    "caltech101": ("Caltech-101", "CC BY 4.0"),
    "flowers5": ("flower photos", "not stated"),
    "food101-3class": ("Food-101, 3 classes", "not stated (Foodspotting photos)"),
    "malaysian-food": ("Malaysian food", "not stated"),
    "vegetables3": ("vegetables", "not stated"),
    "voc-5class-multilabel": ("PASCAL VOC photos with one label", "Flickr terms"),
    "cats-dogs-horses-humans": ("horses and people", "not stated"),
    "kangaroo": ("kangaroo", "not stated"),
    "raccoon": ("raccoon", "MIT"),
}
ABOUT = {
    "tin_val": "Tiny-ImageNet val, 200-way: trained classes, other pictures",
    "miniplaces_val": "MiniPlaces val, 100-way: trained classes, other pictures",
    "cifar_test": "CIFAR-10 test: trained classes, other pictures",
    "cifar_test_other_words": "the same in words that are no image label "
    "(jet plane, automobile, sparrow, kitten, stag, puppy, toad, pony, vessel, lorry)",
    "cats-dogs": "photos of a data set never trained on",
    "clothing": "photos of a data set never trained on",
    "pacs-photo": "photos of a data set never trained on; giraffe is no trained class",
    "pacs-sketch": "sketches, a domain never trained on",
    "scenes": "grey-scale photos of a data set never trained on",
}


DUPLICATE_NOTE = "Those {count} training pictures are left out."
SEEN = ("cats-dogs", "clothing", "scenes")
FIRST = """
It began from the image tower of an earlier prototype, its last layer mapped to the new joint space. That one
had been shown 1,471,488 pictures of 234,461: Tiny-ImageNet (100,000), CIFAR-10 (50,000), MiniPlaces (42,000),
Caltech-101 (7,792), cats, dogs and breeds (7,175), natural-images (6,209), clothing (4,493), scene-15 (4,048),
flowers (3,900), three classes of Food-101 (3,000), Malaysian food (1,494), vegetables (1,354), VOC photos (1,328),
a Flickr8k sample (938), horses and people (366), kangaroo and raccoon (364). **So pictures of the sets marked
"seen", perhaps these very pictures, were trained on before**; PACS, val and the CIFAR-10 test pictures were not.
Of the slices kept out here most had been seen then.
"""


def table(report: dict[str, Any], seen: bool) -> str:
    """Markdown rows of the measured sets; ``seen``: the first weights were those of the prototype."""
    rows = [
        "| set | images | labels | top-1 (95 % interval) | top-5 | chance | ECE | most over-used label | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in report.items():
        low, high = r["interval"]
        top5 = f"{100 * r['top5']:.1f} %" if "top5" in r else "-"
        often = r["most_over_used"]
        about = ABOUT.get(name, f"one picture in {SLICE_EVERY} of a training set, kept out")
        if seen and (name in SEEN or name not in ABOUT):
            about = "**seen**: see Training"
        rows.append(
            f"| {name} | {r['n']} | {r['classes']} | {100 * r['top1']:.1f} % ({100 * low:.1f}-{100 * high:.1f}) "
            f"| {top5} | {100 / r['classes']:.1f} % | {r['ece']:.3f} "
            f"| {often['label']}, {often['times']:.1f}x | {about} |"
        )
    return "\n".join(rows)


def calibration(report: dict[str, Any]) -> str:
    """Sentences on how far the scores can be trusted and which labels are given too often."""
    errors = [
        f"{name} {r['ece']:.3f} (said {r['mean_confidence']:.2f}, right {r['top1']:.2f})" for name, r in report.items()
    ]
    excess = [
        f"{r['most_over_used']['label']} in {name}" for name, r in report.items() if r["most_over_used"]["times"] > 2
    ]
    return (
        f"Mean score of the first label against how often it is right, and calibration error (ECE): "
        f"{', '.join(errors)}. Labels given more than twice as often as they occur: {', '.join(excess) or 'none'}."
    )


def sizes(schedule: str) -> str:
    """``64:0.5,96:1`` in words."""
    parts, before = [], 0.0
    for size, until in (part.split(":") for part in schedule.split(",")):
        parts.append(f"{float(until) - before:.0%} of it at {size} pixels")
        before = float(until)
    return ", ".join(parts)


def trained_on(work: Path) -> tuple[str, int]:
    """(Markdown rows of the training sets, pictures in all)."""
    rows, total = ["| source | pictures | labels | share of a batch | terms |", "|---|---|---|---|---|"], 0
    for name, share in SHARES.items():
        meta = json.loads((work / "pixels" / f"{name}.json").read_text())
        count = len(meta["y"])
        if name in SLICED:
            count -= len(np.arange(count)[::SLICE_EVERY])
        total += count
        title, terms = SOURCES[name]
        rows.append(
            f"| {title} | {count:,} | {len(meta['keys'])} | {100 * share / sum(SHARES.values()):.1f} % | {terms} |"
        )
    return "\n".join(rows), total


def questions(report: dict[str, Any]) -> str:
    """Markdown rows of everyday.json."""
    rows = ["| question | right | mean score of the answer | label given most |", "|---|---|---|---|"]
    for one in [*report["questions"], {"labels": ["mean"], **report["mean"]}]:
        most = f"{one['most']}, {one['often']:.1f}x" if "most" in one else ""
        rows.append(f"| {', '.join(one['labels'])} | {one['right']:.1%} | {one['score']:.1%} | {most} |")
    return "\n".join(rows).replace("%", " %")


CARD = """# {name}

A very small CLIP model for zero-shot image classification on a machine without a network. On pictures
of the kind that it learned from, a car, a boat or a plane, a person or a dog are told apart nine times in
ten, cats from dogs four times in five, 200 things from each other nine times in twenty; on other photos it
is right less often: see the tables. For anything that matters use a model from the hub.

| | |
|---|---|
| file | {name}.safetensors, fp16, {bytes:,} bytes, {parameters:,} parameters |
| image tower | timm {trunk}, input {size} x {size} (shortest side, bicubic, centre crop, \
OpenAI mean and std: open_clip's defaults) |
| text tower | open_clip, width {width}, {layers} layers, {heads} heads, context {context}, \
the usual 49408-token vocabulary |
| joint space | {dim} dimensions: partly whitened PCA of all-MiniLM-L6-v2 over ImageNet-21k nouns |
| logit scale | {scale}, fitted on the val sets, not on those of the second table |

It loads in plain open_clip: `open_clip.add_model_config("{name}.json")`, then
`open_clip.create_model_and_transforms("{name}", pretrained="{name}.safetensors")`.

## Accuracy

The written file, loaded by open_clip, real text tower, mean of {templates} templates ({first!r} and others).
Intervals are bootstrapped over pictures. "Most over-used label": how often it is given, as a
multiple of how often it occurs.

Used to choose, the val sets also to fit the temperature (no picture of them was trained on in this run):

{val}

The same pictures, everyday questions of two to five words. Every label of a question counts the same; some of
the labels have no picture (duck, violin, bicycle, giraffe). "Label given most": as a multiple of its part.

{questions}

Used for this report only:

{eval}

{calibration}

Pictures of these sets that a training picture looks like (grey 16x16 thumbnails correlate above
0.985): {duplicates}. {duplicate_note}

## Training

{total:,} labelled pictures, {classes} classes in {coarse} coarse words, {images:,} presentations
({passes:.1f} passes):

{sources}
{before}
Within a set, pictures of some parents are listed more often than others: {often}.

Image tower: Muon (AdamW for norms and biases), cosine to zero, batch {batch}, {schedule}; running average
of the weights. Its targets are fixed text anchors: the class against all other labels and 1024 random
vocabulary words, and one of its parents against everything that is not one; logits are offset by
{balance} of the logarithm of how often a class or parent occurs, so that frequent ones are not preferred
afterwards. Augmentation: extracts of 72 pixels and more are first shrunk to 44-64 pixels nine times in
ten; random crops from {smallest:.0%} of the area (55 % of 32-pixel pictures), stretched by up to a third,
flipped half of the time; each picture blurred or sharpened by a random amount; saturation, contrast and
brightness changed by up to 40, 30 and 25 %; 6 % grey (20 % of the scenes); noise in one part of a batch
in five; a blanked square in {blank:.0%}.

Text tower: {text_texts:,} names, glosses and phrases with their teacher vectors. Words are drawn to the
trained labels they are like, as the teacher has it, and {lexicon} everyday words also by a hand-made
lexicon (which includes some labels of the photo sets above, such as giraffe or shorts, but none of the
other words for CIFAR-10). How far was chosen on val, the other words for CIFAR-10 among it. Then the
tower was tuned to the image vectors of training pictures.

The figures of the second table are not blind. Three changes of the text tuning were prompted by a look at
such figures of an earlier run (their strength was chosen on val), and what is shown more often was
decided knowing which kinds of photos earlier models had done badly on. This model's own figures chose
nothing: it was measured on these photos once, when it was finished.

## Limits

- Words far from the {classes} trained classes are close to guessing. \
A picture always gets one of the given labels, however wrong all are.
- People are in a few thousand training pictures only. Do not infer identity, age, sex or feelings with it.
- Text in pictures, counts, colours, relations, styles and negation do not work; \
small objects vanish at {size} x {size}.
- Drawings and sketches are far from what it was trained on: see pacs-sketch.
- What Tiny-ImageNet holds too much of (dog breeds, Western objects) carries over.

## Terms

Weights: CC BY-NC 4.0, since several sources are for non-commercial research only. Teacher:
all-MiniLM-L6-v2, Apache-2.0, used in training only. Names and glosses: WordNet licence.
"""


def main() -> None:
    """Write MODEL_CARD.md into the product folder, which must hold eval.json, everyday.json and NAME.json."""
    made = parser(__doc__)
    made.add_argument("--product", type=Path, required=True)
    made.add_argument("--image", default="image.pt", help="file in WORK: the image tower that was exported")
    made.add_argument("--schedule", help="what was shown at which size, where its end was moved on the way")
    args = made.parse_args()
    report = json.loads((args.product / "eval.json").read_text())
    config = json.loads((args.product / f"{NAME}.json").read_text())
    everyday = json.loads((args.product / "everyday.json").read_text())
    image = torch.load(args.work / args.image, weights_only=False)
    anchors = torch.load(args.work / "anchors.pt", weights_only=False)
    texts = torch.load(args.work / "text_targets.pt", weights_only=False)
    sources, total = trained_on(args.work)
    shown = image["step"] * image["args"]["batch"]
    doubles = json.loads((args.work / "pixels" / "duplicates.json").read_text())
    text = config["text_cfg"]
    begun = image["args"]["init"] is not None
    card = CARD.format(
        name=NAME,
        bytes=report["bytes"],
        parameters=report["parameters"],
        trunk=config["vision_cfg"]["timm_model_name"],
        size=config["vision_cfg"]["image_size"],
        width=text["width"],
        layers=text["layers"],
        heads=text["heads"],
        context=text["context_length"],
        dim=config["embed_dim"],
        scale=report["logit_scale"],
        templates=len(ENSEMBLE),
        first=ENSEMBLE[0],
        val=table(report["val"], begun),
        eval=table(report["eval"], begun),
        questions=questions(everyday),
        before=FIRST if begun else "",
        calibration=calibration(report["eval"]),
        total=total,
        duplicates=", ".join(f"{name} {count}" for name, count in doubles["found"].items()),
        duplicate_note=DUPLICATE_NOTE.format(count=sum(map(len, doubles["drop"].values()))),
        classes=len(anchors["classes"]),
        coarse=len(anchors["coarse"]),
        images=shown,
        passes=shown / total,
        sources=sources,
        batch=image["args"]["batch"],
        schedule=args.schedule or sizes(image["args"]["sizes"]),
        smallest=image["args"]["smallest"],
        blank=image["args"]["blank"],
        balance=BALANCE,
        often=", ".join(f"{parent} x{times}" for parent, times in OFTEN.items()),
        text_texts=len(texts["texts"]),
        lexicon=int((texts["groups"] == 1).sum()),
    )
    (args.product / "MODEL_CARD.md").write_text(card)


if __name__ == "__main__":
    main()
