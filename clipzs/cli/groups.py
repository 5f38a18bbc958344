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
from clipzs.errors import UsageProblem

if TYPE_CHECKING:
    from clipzs.labels import Label
    from clipzs.options import Options
    from clipzs.truth import Truth


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
class OwnModelGroup:
    """What sees and reads in this process, and what is kept of it."""

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
class ModelGroup(OwnModelGroup):
    """What sees and reads, in this process or in a server."""

    server: o.Server = None


@dataclass(kw_only=True)
class AnswerGroup:
    """Which scores make an answer."""

    min_score: o.MinScore = None
    min_margin: o.MinMargin = None
    unknown: o.Unknown = False
    unknown_label: o.UnknownLabel = defaults.UNKNOWN_LABEL
    negative: o.Negative
    roll_up: o.RollUp = None
    multi: o.Multi = False
    threshold: o.Threshold = None


@dataclass(kw_only=True)
class FilesGroup:
    """Which images."""

    files_from: o.FilesFrom
    null: o.Null = False
    recursive: o.Recursive = True
    exclude: o.Exclude


@dataclass(kw_only=True)
class TruthGroup:
    """Images whose labels are known."""

    folder: o.TruthFolder = None
    truth: o.TruthFile = None
    map_: o.TruthMap = None
    exclude: o.Exclude

    def found(self, *, there: bool = True) -> "Truth":
        """The images, under the names of the map; `there` is whether they have to exist.

        Raises:
            UsageProblem: neither a folder nor a file says which images there are, or both do.
            TruthError: as `clipzs.truth` says.
        """
        from clipzs.truth import from_file, from_folder, renamed

        if (self.folder is None) == (self.truth is None):
            named = "both DIR and --truth say" if self.folder else "nothing says"
            raise UsageProblem(
                f"{named} which images there are and what is on them",
                hint="name a folder that holds a folder of images for each class, or a table with --truth FILE",
            )
        if self.truth is not None:
            found = from_file(self.truth, there=there)
        else:
            found = from_folder(Path(self.folder or ""), exclude=self.exclude)
        return renamed(found, self.map_) if self.map_ is not None else found

    @property
    def files(self) -> list[str]:
        """What it reads besides images."""
        return [str(file) for file in (self.truth, self.map_) if file is not None]


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


def options(model: OwnModelGroup, reading: ReadingGroup, prompts: PromptGroup | None = None, **more: Any) -> "Options":
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


def settled_head(context: typer.Context, head: str | None, labels: LabelGroup, prompts: PromptGroup) -> Path | None:
    """The head; what the command line says of it or of labels and prompts silences the environment."""
    asked = vars(labels) | {"templates": prompts.templates, "template": prompts.template, "context": prompts.context}
    head, *others = o.as_typed(context, head=head or "", **asked)
    if not head:
        return None
    for name, value in zip(asked, others, strict=True):
        setattr(labels if hasattr(labels, name) else prompts, name, value)
    return Path(head)
