"""`clipzs models`: what there is, what it is, and fetching it before it is needed."""

from typing import Annotated

import typer

from clipzs import catalogue
from clipzs.cli import options as o
from clipzs.cli.narration import say, set_up
from clipzs.cli.show import print_lines, print_rows

app = typer.Typer(help="Models: list, show, pull.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME[:TAG]", help="As after --model.")]


@app.command("list")
def list_models(
    all_: Annotated[
        bool, typer.Option("--all", envvar="CLIPZS_ALL", help="Every model and tag open_clip has.")
    ] = False,
) -> None:
    """The recommended models: size, accuracy, licence, and whether they are on this machine."""
    from clipzs.resolve import resolve, tag_table

    if all_:
        print_lines(f"{name}:{tag}" for name, tags in tag_table().items() for tag in tags)
        return
    rows = []
    for each in catalogue.PRESETS:
        local = resolve(each.model).local_weights
        rows.append(
            (
                each.name,
                each.model,
                f"{each.accuracy} %" if each.accuracy else "see its card",
                f"{each.megabytes} MB" if each.megabytes else "built in",
                each.licence,
                "yes" if local else "no",
                each.note,
            )
        )
    print_rows(("preset", "model", "ImageNet", "download", "licence", "here", "note"), rows)


@app.command("show")
def show(name: Name, pretrained: o.Pretrained = None, allow_pickle: o.AllowPickle = False) -> None:
    """Everything clipzs knows of a model, without loading it."""
    from clipzs.resolve import resolve, tiny

    spec = resolve(name, pretrained, allow_pickle=allow_pickle)
    preset = catalogue.preset(spec.name)
    local = spec.local_weights
    prepared = spec.preprocess
    facts = {
        "name": spec.name,
        "weights": str(local) if local else f"not on this machine; `clipzs models pull {name}` fetches them",
        "source": spec.source,
        "image size": f"{prepared.size[1]}×{prepared.size[0]} pixels",
        "preprocessing": f"{prepared.resize_mode}, {prepared.interpolation}, mean {prepared.mean}, std {prepared.std}",
        "embedding": f"{spec.config['embed_dim']} numbers",
        "tokenizer": spec.tokenizer,
        "context": f"{spec.context_length} tokens",
        "scores": "softmax, sigmoid, cosine" if spec.sigmoid else "softmax, cosine",
        "activation": "QuickGELU" if spec.config.get("quick_gelu") else "GELU",
    }
    if preset is not None:
        facts |= {
            "languages": preset.languages,
            "licence": preset.licence + ("" if preset.commercial else " (not for commercial use)"),
            "ImageNet": f"{preset.accuracy} % zero-shot top-1" if preset.accuracy else "see the model card",
        }
    if spec == tiny() and local:
        facts |= {"licence file": str(local.parent / "LICENSE"), "card": str(local.parent / "MODEL_CARD.md")}
    width = max(len(key) for key in facts)
    print_lines(f"{key:<{width}}  {value}" for key, value in facts.items())


@app.command("pull")
def pull(
    name: Name, pretrained: o.Pretrained = None, allow_pickle: o.AllowPickle = False, quiet: o.Quiet = False
) -> None:
    """Fetch a model's weights, and its tokenizer if it has one of its own, so that it works without a network."""
    set_up(quiet=quiet, verbose=False)
    from clipzs.resolve import resolve

    spec = resolve(name, pretrained, allow_pickle=allow_pickle)
    preset = catalogue.preset(spec.name)
    if preset is not None and not quiet:
        say(f"{spec.name}: {preset.megabytes} MB, licence {preset.licence}")
    weights = spec.weights
    if spec.tokenizer != "open_clip BPE":
        from clipzs.towers import OpenClipEncoder

        OpenClipEncoder(spec, device="cpu").tokenize(["a photo"])
    print_lines([str(weights)])
