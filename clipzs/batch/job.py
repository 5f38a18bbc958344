"""What a job is: what was asked, and what made its numbers; both stay the same from its first part to its last."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from clipzs import __version__
from clipzs.batch import folder
from clipzs.batch.folder import Folder
from clipzs.batch.parts import LISTING, Part
from clipzs.defaults import DECIMALS, PART_SIZE
from clipzs.errors import OutputError, UsageProblem, quoted
from clipzs.labels import Label
from clipzs.options import Options
from clipzs.run import made_with
from clipzs.writers import json_text

if TYPE_CHECKING:
    from clipzs.classifier import Classifier

NAME = "job.json"
Format = Literal["parquet", "jsonl"]
Dtype = Literal["float32", "float16"]
_HINT = "give the settings it was made with, or choose another folder with --out"


@dataclass(frozen=True)
class Inputs:
    """What the user pointed at.

    Attributes:
        paths: folders, images, lists, archives and tables, in the order given; "-" is a list on standard input.
        lists: files that list paths, whatever they are called.
        null: lists are separated by NUL bytes instead of newlines.
        recursive: look into folders inside folders.
        exclude: globs; an entry of a folder whose name or path matches is left out.
        folder: where relative paths start.
    """

    paths: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    null: bool = False
    recursive: bool = True
    exclude: tuple[str, ...] = ()
    folder: str = ""


@dataclass(frozen=True)
class Job:
    """One command, as every process that works on it needs it; it can be pickled.

    Attributes:
        out: the folder of the output: a path, or a URL.
        inputs: the images.
        labels: what to choose among; none where a head has them.
        options: how to classify.
        format: of the parts.
        embeddings: the numbers of the column with embeddings; None is no column.
        decimals: of scores.
        part_size: images of a part, where it can be chosen.
    """

    out: str
    inputs: Inputs
    labels: tuple[Label, ...] = ()
    options: Options = Options()  # noqa: RUF009  # is frozen
    format: Format = "parquet"
    embeddings: Dtype | None = None
    decimals: int = DECIMALS
    part_size: int = PART_SIZE

    def folder(self) -> Folder:
        """The folder of the output; errors as of `folder.opened`."""
        return folder.opened(self.out)

    def file(self, part: Part) -> str:
        """The name of a part's output in that folder."""
        return f"part-{part.name}.{self.format}"

    def classifier(self, **progress: Any) -> "Classifier":
        """What answers; nothing is loaded yet. Numbers of embeddings are never taken from the cache of images.

        Args:
            progress: as `Classifier` takes it.

        Raises:
            ClipzsError: labels, prompts or options that are wrong.
        """
        from clipzs.classifier import Classifier

        # An image that is known would not go through the model, and the others would be in other batches than without.
        return Classifier(self.labels, options=replace(self.options, image_cache=False), **progress)

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked, as `job.json` has it: all that determines the rows and no model needs to be known for."""
        inputs, options = self.inputs, self.options
        return {
            "inputs": list(inputs.paths),
            "--files-from": list(inputs.lists),
            "--null": inputs.null,
            "--recursive": inputs.recursive,
            "--exclude": list(inputs.exclude),
            "folder": inputs.folder,
            "--part-size": self.part_size,
            "--format": self.format,
            "--embeddings": self.embeddings,
            "--decimals": self.decimals,
            "--top-k": options.top_k,
            "--batch-size": options.batch_size,
            "--engine": options.engine,
            "--max-megapixels": options.max_megapixels,
            "--image-timeout": options.image_timeout,
        }

    def check_asked(self, here: Folder, earlier: dict[str, Any] | None = None) -> None:
        """See that a folder has this job, or nothing.

        Args:
            here: the folder.
            earlier: what was asked for what is there; None is what `job.json` says, if it is there.

        Raises:
            UsageProblem: it has another job, or something else.
        """
        if earlier is None:
            said = read(here)
            if said is None:
                if (there := here.names()) and LISTING not in there:
                    raise UsageProblem(
                        f"--out {here.place} is not empty, and no job of clipzs", hint="name a new or an empty folder"
                    )
                return
            earlier = said["asked"]
        unlike = next(_unlike(earlier, self.asked), None)
        if unlike is not None:
            raise UsageProblem(f"--out {here.place} has another job: {unlike}", hint=_HINT)

    def settle(self, here: Folder, classifier: "Classifier") -> None:
        """Write down what makes the numbers or, where that was done, see that it is the same.

        Whoever computes does that before the first part: precision, for one, may be another on another machine.

        Raises:
            UsageProblem: it is not.
            OutputError: it cannot be written.
            ClipzsError: the model cannot be had.
        """
        configuration = classifier.configuration
        facts = {
            "clipzs": __version__,
            "model": configuration.model,
            "config": configuration.hash,
            "precision": configuration.precision,
            "names": list(configuration.names),
            "asked": self.asked,
            **made_with(classifier),
        }
        if not here.exists(NAME):
            here.write(NAME, f"{json_text(facts)}\n".encode(), first=True)
        said = read(here) or facts
        self.check_asked(here, said["asked"])
        unlike = configuration.difference(model=said["model"], config=said["config"], names=said["names"])
        if unlike is not None:
            raise UsageProblem(f"--out {here.place} has another job: {unlike}", hint=_HINT)


def read(here: Folder) -> dict[str, Any] | None:
    """What `job.json` says; None if it is not there.

    Raises:
        UsageProblem: it is something else.
        OutputError: it cannot be read.
    """
    try:
        said = json.loads(here.read(NAME))
        texts = [said["model"], said["config"], *said["names"]]
        if not isinstance(said["asked"], dict) or not all(isinstance(text, str) for text in texts):
            raise ValueError
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{here.place}/{NAME}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageProblem(f"{here.place}/{NAME} is not what clipzs writes", hint="choose another folder") from error
    return dict(said)


def _unlike(earlier: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name, value in now.items():
        before = earlier.get(name)
        if before != value:
            what = "relative paths started in" if name == "folder" else f"{name} was"
            yield f"{what} {_shown(before)}, now {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unset" if value is None or value == [] else quoted(value) if isinstance(value, list) else str(value)
