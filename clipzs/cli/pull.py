"""`clipzs models pull`: models fetched and checked before they are needed."""

from typing import TYPE_CHECKING, Annotated

import typer

from clipzs import catalogue
from clipzs.cli import options as o
from clipzs.cli.narration import say, set_up
from clipzs.cli.show import print_lines
from clipzs.errors import UsageProblem

if TYPE_CHECKING:
    from clipzs.hub import Remote
    from clipzs.modelspec import ModelSpec

Names = Annotated[list[str], typer.Argument(metavar="NAME[:TAG]…", help="As after --model; one or more.")]


def pull(
    names: Names,
    pretrained: o.Pretrained = None,
    allow_pickle: o.AllowPickle = False,
    offline: o.Offline = False,
    quiet: o.Quiet = False,
) -> None:
    """Fetch models with their tokenizers and check them, so that they work without a network.

    Says how large they are and under which licence first. A broken download goes on where it stopped.
    """
    set_up(quiet=quiet, verbose=False)
    if pretrained and len(names) > 1:
        raise UsageProblem("--pretrained goes with one model", hint="write NAME:TAG instead")
    from clipzs.pull import bring, check_space, remote_files
    from clipzs.resolve import resolve

    specs = [resolve(name, pretrained, allow_pickle=allow_pickle) for name in names]
    wanted = [(spec, remote_files(spec)) for spec in specs]
    if not quiet:
        for spec, files in wanted:
            _introduce(spec, files)
    check_space([file for _, files in wanted for file in files])
    try:
        for spec, files in wanted:
            bring(spec, files)
            print_lines([str(spec.weights)])
    except KeyboardInterrupt:
        say("stopped; what was fetched is kept, and the same command goes on from there")
        raise


def _introduce(spec: "ModelSpec", files: list["Remote"]) -> None:
    """Size and licence, before anything large is fetched."""
    licence = spec.licence.name if spec.licence else "unknown, see the model's card"
    say(f"{spec.name}: {_size(spec, files)}; licence of the weights: {licence}")
    if spec.licence and not spec.licence.commercial:
        say(
            f"the licence of {spec.name}, {spec.licence.name}, is not open to commercial use ({spec.licence.source})",
            kind="warning",
        )


def _size(spec: "ModelSpec", files: list["Remote"]) -> str:
    from clipzs.hub import begun
    from clipzs.sizes import in_words

    if not files:
        local = spec.local_weights
        return f"{in_words(local.stat().st_size if local else 0)}, already here"
    preset = catalogue.preset(spec.name)
    if any(file.bytes is None for file in files):
        return f"about {preset.megabytes} MB to download" if preset else "a download of unknown size"
    here = sum(map(begun, files))
    size = f"{in_words(sum(file.bytes or 0 for file in files))} to download"
    return f"{size}, {in_words(here)} of them already here" if here else size
