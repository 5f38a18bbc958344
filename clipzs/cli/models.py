"""`clipzs models`: what there is, what it is, and fetching it before it is needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipzs import catalogue
from clipzs.cli import options as o
from clipzs.cli.narration import set_up
from clipzs.cli.pull import pull
from clipzs.cli.show import print_lines, print_rows
from clipzs.errors import UsageProblem

if TYPE_CHECKING:
    from clipzs.modelspec import ModelSpec

app = typer.Typer(help="Models: list, show, pull.", no_args_is_help=True)


@app.command("list")
def list_models(
    part: Annotated[
        str,
        typer.Argument(
            metavar="PART", help="Only models with this in their name; * stands for anything.", show_default=False
        ),
    ] = "",
    all_: Annotated[
        bool, typer.Option("--all", envvar="CLIPZS_ALL", help="Every model and tag open_clip has, and cn-clip:.")
    ] = False,
    offline: o.Offline = False,
) -> None:
    """The recommended models, or those of a name: languages, licence, and their size on this machine."""
    from clipzs.cli.facts import licence
    from clipzs.families import in_words
    from clipzs.names import published
    from clipzs.resolve import resolve

    if part or all_:
        found = (resolve(name) for name in published(part))
        pairs = [(spec.name, spec.family, in_words(spec.languages), licence(spec), _here(spec)) for spec in found]
        print_rows(("model", "family", "languages", "licence", "here"), pairs)
        return
    rows = []
    for each in catalogue.PRESETS:
        rows.append(
            (
                each.name,
                each.model,
                f"{each.accuracy} %" if each.accuracy else "see its card",
                f"{each.megabytes} MB" if each.megabytes else "built in",
                each.licence,
                _here(resolve(each.model)),
                each.note,
            )
        )
    print_rows(("preset", "model", "ImageNet", "download", "licence", "here", "note"), rows)


def _here(spec: "ModelSpec") -> str:
    """What of a model is on this machine."""
    size = spec.bytes_here
    if size is None:
        return "no"
    from clipzs import pull
    from clipzs.sizes import in_words

    return ", ".join([in_words(size), *(f"no {part}" for part in pull.missing(spec))])


@app.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME[:TAG]", help="As after --model.")] = None,
    pretrained: o.Pretrained = None,
    model_config: o.ModelConfig = None,
    quick_gelu: o.QuickGelu = None,
    allow_pickle: o.AllowPickle = False,
    offline: o.Offline = False,
    json: Annotated[bool, typer.Option("--json", envvar="CLIPZS_JSON", help="One JSON object.")] = False,
) -> None:
    """Everything clipzs knows of a model, and where it knows it from, without loading it."""
    set_up(quiet=False, verbose=False)
    from clipzs.cli.facts import document, lines
    from clipzs.resolve import resolve, resolve_config

    name, config = o.as_typed(ctx, name=name or "", model_config=str(model_config or ""))
    if bool(name) == bool(config):
        raise UsageProblem("name one model", hint="by NAME, or by --model-config FILE --pretrained FILE")
    if config:
        spec = resolve_config(Path(config), pretrained, quick_gelu=quick_gelu)
    else:
        spec = resolve(name, pretrained, quick_gelu=quick_gelu, allow_pickle=allow_pickle)
    if json:
        import json as writer

        print_lines([writer.dumps(document(spec), indent=2, ensure_ascii=False, default=str)])
        return
    facts = list(lines(spec, spec.name if pretrained else name))
    width = max(len(key) for key, _ in facts)
    print_lines(f"{key:<{width}}  {value}" for key, value in facts)


app.command("pull")(pull)
