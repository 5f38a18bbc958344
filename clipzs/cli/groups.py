"""Options that commands share, in groups: a command takes a group as one parameter, the user gives its options."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from clipzs import defaults
from clipzs.cli import options as o

if TYPE_CHECKING:
    from clipzs.labels import Label
    from clipzs.options import Options


@dataclass(kw_only=True)
class LabelGroup:
    """What to choose among."""

    labels: o.LabelsCsv
    label: o.LabelOne
    labels_file: o.LabelsFile

    def settle(self, context: typer.Context) -> None:
        """Let what the command line says silence the environment."""
        self.labels, self.label, self.labels_file = o.as_typed(
            context, labels=self.labels, label=self.label, labels_file=self.labels_file
        )

    def given(self) -> "list[Label]":
        """The labels, in this order: --labels, --label, --labels-file."""
        from clipzs.labelfiles import read
        from clipzs.labels import from_names, split_commas

        named = from_names([name for text in self.labels for name in split_commas(text)] + self.label)
        return [*named, *(label for file in self.labels_file for label in read(Path(file)))]


@dataclass(kw_only=True)
class PromptGroup:
    """What is said of each label."""

    templates: o.Templates
    template: o.Template
    context: o.Context = ""
    prompts_dir: o.PromptsDir = None

    def settle(self, context: typer.Context) -> None:
        """Let what the command line says silence the environment."""
        self.templates, self.template = o.as_typed(context, templates=self.templates, template=self.template)


@dataclass(kw_only=True)
class ModelGroup:
    """What sees and reads, where, and what is kept of it."""

    model: o.Model = None
    pretrained: o.Pretrained = None
    model_config: o.ModelConfig = None
    language: o.Language = None
    quick_gelu: o.QuickGelu = None
    allow_pickle: o.AllowPickle = False
    offline: o.Offline = False
    device: o.Device = "auto"
    precision: o.Precision = "auto"
    engine: o.Engine = "auto"
    compile: o.Compile = False
    batch_size: o.BatchSize = defaults.BATCH_SIZE
    cache: o.Cache = True
    image_cache: o.ImageCache = True
    cache_dir: o.CacheDir = None
    cache_limit: o.CacheLimit = defaults.CACHE_LIMIT

    def settle(self, context: typer.Context) -> None:
        """Let what the command line says silence the environment."""
        model, config = o.as_typed(context, model=self.model, model_config=str(self.model_config or ""))
        self.model = None if config and not model else model
        self.model_config = Path(config) if config else None


@dataclass(kw_only=True)
class FilesGroup:
    """Which images."""

    files_from: o.FilesFrom
    null: o.Null = False
    recursive: o.Recursive = True
    exclude: o.Exclude


@dataclass(kw_only=True)
class ReadingGroup:
    """How images are read."""

    max_megapixels: o.MaxMegapixels = defaults.MAX_MEGAPIXELS
    image_timeout: o.ImageTimeout = defaults.IMAGE_TIMEOUT_S
    exact_decode: o.ExactDecode = False


@dataclass(kw_only=True)
class TalkGroup:
    """How much is said besides results."""

    quiet: o.Quiet = False
    verbose: o.Verbose = False


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as Typer shall see it: each parameter that is a group in the place of its options.

    Groups with a `settle` method are settled before the command is called; the command's first parameter is
    the context.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if not (isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)):
            parameters.append(parameter)
            continue
        groups[parameter.name] = parameter.annotation
        hints = get_type_hints(parameter.annotation, include_extras=True)
        for field in fields(parameter.annotation):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
                )
            )

    def called(**values: Any) -> Any:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        for group in made.values():
            if hasattr(group, "settle"):
                group.settle(values["ctx"])
        return command(**values, **made)

    update_wrapper(called, command)
    del called.__wrapped__  # type: ignore[attr-defined]  # whose parameters Typer would read
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def options(model: ModelGroup, reading: ReadingGroup, prompts: PromptGroup | None = None, **more: Any) -> "Options":
    """The groups as one.

    Args:
        model: what sees and reads.
        reading: how images are read.
        prompts: what is said of each label.
        more: other fields of `Options`.
    """
    from clipzs.options import Options

    given = {**vars(model), **vars(reading), **(vars(prompts) if prompts else {})}
    del given["offline"]  # is in force since it was read
    given["language"] = given["language"] or None
    return Options(**given, **more)
