"""`clipzs labels`: what may be wrong with labels, before any image is classified."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipzs.cli import options as o
from clipzs.cli.groups import LabelGroup, ModelGroup, PromptGroup, ReadingGroup, TalkGroup, grouped, options
from clipzs.cli.narration import Progress, say, set_up
from clipzs.cli.show import print_lines, print_rows
from clipzs.errors import FAILED

if TYPE_CHECKING:
    from clipzs.labelchecks import Finding

app = typer.Typer(help="Labels: check.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Have commands of its own, also while there is one only."""


@app.command("check")
@grouped
def check(
    ctx: typer.Context,
    *,
    labels: LabelGroup,
    prompts: PromptGroup,
    model: ModelGroup,
    json: Annotated[bool, o.option("--json", help="One JSON object.", panel=o.OUTPUT)] = False,
    talk: TalkGroup,
) -> None:
    """Say what may be wrong with labels: near-duplicates, negations, prompts too long, words the model cannot read.

    Exit codes: 0 nothing was found, 1 something was (or the check failed), 2 wrong usage.
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    from clipzs.classifier import Classifier

    with Progress(enabled=not talk.quiet, until_first=True).shown(None) as progress:
        classifier = Classifier(
            labels.given(),
            options=options(model, ReadingGroup(), prompts, score="cosine"),  # with which one label is enough
            progress=progress.prompts,
        )
        found = classifier.findings()
    if json:
        import json as writer

        print_lines([writer.dumps(_document(found, classifier.model.name), indent=2, ensure_ascii=False)])
    else:
        print_rows(("check", "labels", "what"), [_row(finding) for finding in found])
    if not found and not talk.quiet:
        say(f"nothing found in {len(classifier.labels):,} labels for {classifier.model.name}")
    raise typer.Exit(FAILED if found else 0)


def _document(found: "list[Finding]", model: str) -> dict[str, Any]:
    return {
        "model": model,
        "findings": [
            {
                "check": finding.check,
                "message": finding.message,
                "concerns": [{"labels": list(one.labels), "what": one.what} for one in finding.concerns],
            }
            for finding in found
        ],
    }


def _row(finding: "Finding") -> tuple[str, str, str]:
    from clipzs.writers import tsv_field

    labels = dict.fromkeys(name for concern in finding.concerns for name in concern.labels)
    return finding.check, str(len(labels)), tsv_field(finding.message)
