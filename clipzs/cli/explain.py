"""`clipzs explain`: why a picture got its label."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.groups import LabelGroup, ModelGroup, PromptGroup, ReadingGroup, TalkGroup, grouped, options
from clipzs.cli.narration import Progress, say, set_up
from clipzs.cli.show import print_lines, print_rows
from clipzs.errors import UsageProblem

if TYPE_CHECKING:
    from clipzs.classifier import Classifier
    from clipzs.explaining import Explanation
    from clipzs.heatmap import Heat

_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

Picture = Annotated[str, typer.Argument(metavar="IMAGE", help="One picture, a file.")]
HeatFile = Annotated[
    Path | None,
    o.option("--output", "-o", metavar="FILE", help="Draw where in the picture the label is found: a .png, .jpg or "
             ".webp.", panel=o.OUTPUT),
]  # fmt: skip
MapOf = Annotated[
    str | None,
    o.option("--map-of", metavar="LABEL", help="Which label to draw; the answer unless given.", panel=o.OUTPUT),
]


@grouped
def explain(
    ctx: typer.Context,
    picture: Picture,
    *,
    labels: LabelGroup,
    prompts: PromptGroup,
    model: ModelGroup,
    score: o.Score = "softmax",
    decimals: o.Decimals = defaults.DECIMALS,
    reading: ReadingGroup,
    output: HeatFile = None,
    map_of: MapOf = None,
    json: Annotated[bool, o.option("--json", help="One JSON object.", panel=o.OUTPUT)] = False,
    talk: TalkGroup,
) -> None:
    """Say why a picture got its label: by what margin, which templates and which crop it hangs on, what is near it.

    Exit codes: 0 explained, 1 failed (the picture cannot be read), 2 wrong usage.
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    if map_of is not None and output is None:
        raise UsageProblem("--map-of says which label to draw, and nothing is drawn", hint="name a file: -o map.png")
    if output is not None:
        _stay_here(ctx, model)
        _check_drawable(output, [picture, *labels.labels_file])
    from clipzs.decoders import DECODERS

    DECODERS.start()
    from clipzs.classifier import Classifier
    from clipzs.explaining import explain

    with Progress(enabled=not talk.quiet, until_first=True).shown(None) as progress:
        chosen = options(model, reading, prompts, score=score)
        classifier = Classifier(labels.given(), options=chosen, progress=progress.prompts)
        drawn = _drawn(map_of, classifier)
        found = explain(classifier, picture)
        heat = _heat(classifier, found, drawn or found.answer.label) if output else None
    if output is not None and heat is not None:
        _draw(found, heat, classifier, output)
        if not heat.grid.any() and not talk.quiet:
            say(f"nothing in the picture speaks for {drawn or found.answer.label}: {output} shows no heat")
    if json:
        import json as writer

        heated = heat and {
            "label": drawn or found.answer.label,
            "method": heat.method,
            "grid": [[round(float(cell), 4) for cell in row] for row in heat.grid],
        }
        print_lines([writer.dumps({**found.as_json(decimals), "heat": heated}, indent=2, ensure_ascii=False)])
    elif sys.stdout.isatty():
        _show(found)
    else:
        print_lines("\t".join(row) for row in _rows(found, decimals))


def _stay_here(context: typer.Context, model: ModelGroup) -> None:
    """See that no server is to compute: a heat map looks into the model. The environment asks for one in vain.

    Raises:
        UsageProblem: the command line asks for one.
    """
    if model.server is not None and o.is_typed(context, "server"):
        raise UsageProblem("-o draws with a model in this process: it does not go with --server", hint="leave one out")
    model.server = None


def _check_drawable(path: Path, read: Sequence[str]) -> None:
    from clipzs.output import check_apart, check_writable

    if path.suffix.lower() not in _PICTURES:
        raise UsageProblem(f"-o {path}: a heat map is a picture", hint=f"end its name in {', '.join(_PICTURES)}")
    check_apart(path, read)
    check_writable(path)


def _drawn(map_of: str | None, classifier: "Classifier") -> str | None:
    if map_of is not None and map_of not in (label.name for label in classifier.labels):
        raise UsageProblem(f"--map-of {map_of}: no such label", hint="it is one of your labels, as you wrote it")
    return map_of


def _heat(classifier: "Classifier", found: "Explanation", label: str) -> "Heat":
    from clipzs.heatmap import HeatMaps

    row = [each.name for each in classifier.labels].index(label)
    return HeatMaps(classifier.model, device=classifier.options.device)(found.pixels, classifier.label_vectors[row])


def _draw(found: "Explanation", heat: "Heat", classifier: "Classifier", path: Path) -> None:
    import io

    from clipzs.output import save
    from clipzs.overlay import laid_on

    picture, content = found.picture, io.BytesIO()
    laid_on(picture, heat.grid, classifier.model.preprocess.view(*picture.size)).save(
        content, _PICTURES[path.suffix.lower()]
    )
    save(path, content.getvalue())


def _show(found: "Explanation") -> None:
    """For people."""
    from dataclasses import replace

    from clipzs.table import TableWriter

    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    few = replace(found.result, scores=found.result.scores[: defaults.TABLE_TOP_K])
    sys.stdout.flush()
    TableWriter(sys.stdout.buffer, colour=colour).write([few])
    lead = found.answer.score - found.runner_up.score
    print_lines(["", f"{found.answer.label} leads {found.runner_up.label} by {lead:.3f} ({found.lead:.4f} in cosine)"])
    against = [one for one in found.templates if one.alone.label != found.answer.label]
    if against:
        print_lines([f"{len(against)} of {len(found.templates)} templates alone would answer otherwise"])
    print_lines([""])
    print_rows(
        ("template", "alone", "score", "margin", "part in the lead", "without it"),
        [
            (one.template, one.alone.label, f"{one.alone.score:.3f}", f"{one.margin:+.3f}",
             "" if one.share is None else f"{one.share:.1%}", one.without)
            for one in found.templates
        ],
    )  # fmt: skip
    if found.left_out:
        print_lines([f"(prompts of the {found.left_out:,} labels with the lowest scores stay as they are)"])
    print_lines([""])
    print_rows(
        ("crop", "best", "score", f"score of {found.answer.label}"),
        [(one.crop, one.best.label, f"{one.best.score:.3f}", f"{one.score:.3f}") for one in found.crops],
    )
    print_lines([""])
    print_rows(
        (f"near {found.answer.label}", "cosine", "score"),
        [(one.label, f"{one.cosine:.3f}", f"{one.score:.3f}") for one in found.nearest],
    )


def _rows(found: "Explanation", decimals: int) -> Iterator[tuple[str, ...]]:
    """For programs: what a line is, then its fields."""
    from clipzs.results import printed
    from clipzs.writers import tsv_field

    def row(kind: str, *fields: Any) -> tuple[str, ...]:
        return (kind, *(printed(each, decimals) if isinstance(each, float) else tsv_field(each) for each in fields))

    for one in found.result.scores:
        yield row("score", one.label, one.score)
    yield row("margin", found.answer.label, found.runner_up.label, found.answer.score - found.runner_up.score)
    for effect in found.templates:
        share = "" if effect.share is None else f"{effect.share:.4f}"
        alone = effect.alone
        yield row("template", effect.template, alone.label, alone.score, effect.margin, share, effect.without)
    for crop in found.crops:
        yield row("crop", crop.crop, crop.best.label, crop.best.score, crop.score)
    for near in found.nearest:
        yield row("near", near.label, near.cosine, near.score)
