"""The table of docs/models.md: every family against its reference, on the small models that the tests have.

    python -m benchmarks.families --write docs/models.md

Without --write it is printed. Takes about a minute, and needs what the tests need.
"""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.report import filled, markdown
from clipzs import families
from clipzs.registry import architecture
from clipzs.resolve import resolve

TESTS = Path(__file__).parent.parent / "tests"
WORDS = ["family", "examples", "trained for", "tokenizer", "languages", "licence of the weights", "compared with"]
NUMBERS = ["images differ by", "texts", "scores"]
OPEN_CLIP, TRANSFORMERS = "open_clip", "transformers"


class Compared(NamedTuple):
    """One model against its reference: how it is described, and the largest differences."""

    family: families.Family
    example: str
    sigmoid: bool
    tokenizer: str
    reference: str
    differences: tuple[float, float, float]


def main() -> None:
    """Compare, then print the tables or put them between their marks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    sys.path.append(str(TESTS))
    compared = []
    for one in (*of_open_clip(), chinese()):
        compared.append(one)
        print(one.example, *(f"{difference:.1e}" for difference in one.differences), file=sys.stderr, flush=True)
    parts = {"families": table(compared), "versions": versions(len(compared))}
    if options.write:
        options.write.write_text(filled(options.write.read_text(encoding="utf-8"), parts), encoding="utf-8")
    else:
        print("\n\n".join(parts.values()))


def of_open_clip() -> Iterator[Compared]:
    """Each row of the tests."""
    backbones = importlib.import_module("backbones")
    for row in backbones.ROWS:
        family = families.of_weights(row.model, row.tag or "")
        if family is None:
            raise SystemExit(f"{row.name} is of no family that clipzs knows")
        config = architecture(row.model)
        name = config["text_cfg"].get("hf_tokenizer_name")
        tokenizer = f"`{name}`" if name else "CLIP's byte pairs"
        sigmoid = config.get("init_logit_bias") is not None
        yield Compared(family, row.name, sigmoid, tokenizer, OPEN_CLIP, backbones.measured(row))


def chinese() -> Compared:
    """A small Chinese-CLIP that transformers saved, against transformers."""
    import torch
    from typer.testing import CliRunner

    from clipzs.cli import app
    from clipzs.encoders import encoder_for

    tests: Any = importlib.import_module("test_chinese")
    texts = [tests.TEMPLATE.replace("<>", label) for label in tests.LABELS]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = tests.of_transformers()
        model.save_pretrained(folder)
        tests.write_vocabulary(folder)
        encoder = encoder_for(resolve(f"cn-clip:{folder}"), device="cpu", precision="fp32")
        pixels = np.stack([encoder.spec.preprocess(tests.Image.open(photo)) for photo in tests.PHOTOS])
        with torch.no_grad():
            image = tests.vectors(model.get_image_features(pixel_values=tests.their_pixels()))
            text = tests.vectors(model.get_text_features(**tests.their_ids(folder, texts)))

        def run(*arguments: object) -> Any:
            return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"CLIPZS_DECIMALS": "6"})

        scores = tests.our_scores(run, f"cn-clip:{folder}", "--engine", "torch", "--no-cache")
        differences = (
            float(np.abs(encoder.encode_images(pixels) - image.numpy()).max()),
            float(np.abs(encoder.encode_texts(encoder.tokenize(texts)) - text.numpy()).max()),
            float(np.abs(scores - tests.their_scores(model, folder)).max()),
        )
    spec = resolve("cn-clip:ViT-B-16")
    family = families.Family("Chinese-CLIP", spec.languages, spec.licence)
    return Compared(family, spec.name, spec.sigmoid, "BERT's word pieces", TRANSFORMERS, differences)


def table(compared: list[Compared]) -> str:
    """Markdown: a line for each family."""
    rows = []
    for family, group in groupby(compared, lambda one: one.family):
        some = list(group)
        largest = [max(each) for each in zip(*(one.differences for one in some), strict=True)]
        rows.append([
            family.name,
            ", ".join(f"`{one.example}`" for one in some),
            " or ".join(sorted({"sigmoid" if one.sigmoid else "softmax" for one in some})),
            ", ".join(dict.fromkeys(one.tokenizer for one in some)),
            family.note or families.in_words(family.languages),
            family.licence.name if family.licence else "unknown",
            some[0].reference,
            *(f"{difference:.0e}" if difference else "0" for difference in largest),
        ])  # fmt: skip
    return markdown(WORDS + NUMBERS, rows, words=len(WORDS))


def versions(count: int) -> str:
    """What was compared, in one sentence."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("open_clip_torch", "timm", "transformers", "torch"))
    return f"{count} models compared in fp32 on a CPU: clipzs {version('clipzs')} with {packages}."


if __name__ == "__main__":
    main()
