"""`clipzs prompts`: see the template sets, and exactly what the model will read."""

from typing import Annotated

import typer

from clipzs.cli import options as o
from clipzs.cli.groups import LabelGroup, PromptGroup, grouped
from clipzs.cli.show import print_lines, print_rows

app = typer.Typer(help="Prompt-template sets: list, show, expand.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A set's name, or a YAML file.")]


@app.command("list")
def list_sets(prompts_dir: o.PromptsDir = None) -> None:
    """All sets, shipped and your own."""
    from clipzs.templates import all_sets

    sets = all_sets(prompts_dir)
    print_rows(("name", "templates", "description"), [(s.name, str(len(s.templates)), s.description) for s in sets])


@app.command("show")
def show(name: Name, prompts_dir: o.PromptsDir = None) -> None:
    """One set: its source and its templates."""
    from clipzs.templates import find

    found = find(name, prompts_dir)
    facts = {
        "name": found.name,
        "description": found.description,
        "source": found.source,
        "context": found.context,
        "file": str(found.path),
    }
    print_lines([*(f"# {key}: {value}" for key, value in facts.items() if value), *found.templates])


@app.command("expand")
@grouped
def expand(ctx: typer.Context, *, labels: LabelGroup, prompts: PromptGroup) -> None:
    """The exact prompts of your labels: label, tab, prompt."""
    from clipzs.labels import checked
    from clipzs.prompts import expand
    from clipzs.templates import chosen
    from clipzs.writers import tsv_field

    templates = chosen(prompts.templates, prompts.template, prompts.context, prompts.prompts_dir)
    named = checked(labels.given(), least=1)
    print_lines(f"{tsv_field(one.name)}\t{tsv_field(text)}" for one in named for text in expand(one, templates))
