"""`clipzs prompts`: see the template sets, and exactly what the model will read."""

from typing import Annotated

import typer

from clipzs.cli import options as o
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
def expand(
    ctx: typer.Context,
    *,
    labels: o.LabelsCsv,
    label: o.LabelOne,
    labels_file: o.LabelsFile,
    templates: o.Templates,
    template: o.Template,
    context: o.Context = "",
    prompts_dir: o.PromptsDir = None,
) -> None:
    """The exact prompts of your labels: label, tab, prompt."""
    from clipzs import labels as labels_module
    from clipzs import prompts
    from clipzs import templates as templates_module
    from clipzs.cli.classify import given_labels
    from clipzs.writers import tsv_field

    labels, label, labels_file = o.as_typed(ctx, labels=labels, label=label, labels_file=labels_file)
    templates, template = o.as_typed(ctx, templates=templates, template=template)
    chosen = templates_module.chosen(templates, template, context, prompts_dir)
    checked = labels_module.checked(given_labels(labels, label, labels_file), least=1)
    print_lines(f"{tsv_field(one.name)}\t{tsv_field(text)}" for one in checked for text in prompts.expand(one, chosen))
