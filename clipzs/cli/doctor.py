"""`clipzs doctor`: what is on this machine, and whether it will do."""

import itertools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipzs.cli import options as o
from clipzs.cli.narration import say, set_up
from clipzs.cli.show import print_lines
from clipzs.errors import FAILED

if TYPE_CHECKING:
    from clipzs.doctor import Finding

_MARKS = {"ok": " ", "warning": "!", "error": "✗"}


def doctor(
    cache_dir: o.CacheDir = None,
    prompts_dir: o.PromptsDir = None,
    offline: o.Offline = False,
    json: Annotated[bool, typer.Option("--json", envvar="CLIPZS_JSON", help="One JSON object.")] = False,
) -> None:
    """Versions, device, caches and models on this machine, and what could be better.

    Exit codes: 0 clipzs can be used, 1 it cannot.
    """
    set_up(quiet=True, verbose=False)
    from clipzs.doctor import examine

    findings = list(examine(cache_dir, prompts_dir))
    if json:
        import json as writer

        print_lines([writer.dumps(_document(findings), indent=2, ensure_ascii=False)])
    else:
        print_lines(_lines(findings))
    errors = [finding for finding in findings if finding.state == "error"]
    for finding in errors:
        say(f"{finding.name}: {finding.value}", kind="error")
        say(finding.hint, kind="hint")
    raise typer.Exit(FAILED if errors else 0)


def _document(findings: "list[Finding]") -> dict[str, dict[str, Any]]:
    """Topic → name → value, state and hint."""
    return {
        topic: {each.name: {"value": each.value, "state": each.state, "hint": each.hint} for each in several}
        for topic, several in itertools.groupby(findings, key=lambda each: each.topic)
    }


def _lines(findings: "list[Finding]") -> list[str]:
    """A heading for each topic; a mark before what could be better, and the hint in a line of its own."""
    lines: list[str] = []
    width = max(len(finding.name) for finding in findings)
    for topic, several in itertools.groupby(findings, key=lambda each: each.topic):
        lines += [*([""] if lines else []), topic]
        for each in several:
            lines.append(f"{_MARKS[each.state]} {each.name:<{width}}  {each.value}")
            if each.hint:
                lines.append(f"  {'':<{width}}  → {each.hint}")
    return lines
