"""`clipzs fit`: a classifier from example images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipzs import __version__
from clipzs.cli import options as o
from clipzs.cli.groups import LabelGroup, ModelGroup, PromptGroup, ReadingGroup, TalkGroup, TruthGroup, grouped, options
from clipzs.cli.narration import Progress, say_unreadable, set_up
from clipzs.cli.running import classifier_of
from clipzs.cli.show import print_rows
from clipzs.errors import UsageProblem

if TYPE_CHECKING:
    from clipzs.headfile import SavedHead


@grouped
def fit(
    ctx: typer.Context,
    truth: TruthGroup,
    *,
    output: Annotated[
        Path | None,
        o.option("--output", "-o", metavar="FILE", help="Write the head there: .safetensors.", panel=o.OUTPUT),
    ] = None,
    method: Annotated[
        Literal["prototypes", "linear", "cache"],
        o.option(
            "--method",
            help="prototypes mixes mean images with the labels' texts; linear is logistic regression on images alone "
            "(needs scikit-learn); cache is Tip-Adapter.",
            panel=o.FITTING,
        ),
    ] = "prototypes",
    alpha: Annotated[
        float | None,
        o.option(
            "--alpha",
            help="How much images count beside texts: their share with prototypes (0 to 1), their weight with cache. "
            "Unless given, by their number and cross-validation.",
            panel=o.FITTING,
        ),
    ] = None,
    shots: Annotated[
        int | None,
        o.option("--shots", metavar="N", min=1, help="Use only so many images of each class, drawn at random.",
                 panel=o.FITTING),
    ] = None,
    seed: Annotated[int, o.option("--seed", min=0, help="Of images drawn, and of folds.", panel=o.FITTING)] = 0,
    labels: LabelGroup,
    prompts: PromptGroup,
    model: ModelGroup,
    reading: ReadingGroup,
    talk: TalkGroup,
) -> None:  # fmt: skip
    """Make a classifier from a few example images of each class, for `clipzs classify --head`.

    No network is trained: the model's image embeddings stay as they are. Labels are the names of the classes unless
    some are given, which may bring groups, aliases and prompts.

    Exit codes: 0 made of all images, 1 failed, 2 wrong usage, 3 made without some that could not be read.
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    from clipzs.decoders import DECODERS

    DECODERS.start()
    from clipzs import fewshot, fitting, headfile
    from clipzs.labels import from_names
    from clipzs.metrics import Outcomes, top
    from clipzs.output import check_apart, check_writable, save

    target = _target(output)
    answers = truth.found()
    check_apart(target, [*labels.labels_file, *truth.files])
    fitting.check(method, alpha)
    check_writable(target)
    progress = Progress(enabled=not talk.quiet, until_first=False)
    given = labels.given() or from_names(answers.classes)
    classifier = classifier_of(given, options(model, reading, prompts), progress)
    fewshot.check(answers, [label.name for label in classifier.labels])
    if shots is not None:
        answers = fewshot.drawn(answers, shots, seed=seed)
    with progress.shown(lambda: len(answers.paths)):
        labelled = fewshot.embedded(classifier, answers, done=progress.advance)
    examples = labelled.examples
    fitted = fitting.fit(examples, method, alpha=alpha, seed=seed)
    saved = headfile.SavedHead(
        head=fitted.head,
        labels=classifier.labels,
        method=method,
        setting=fitted.setting,
        temperature=fitted.temperature,
        model=classifier.model.name,
        digest=classifier.model.digest,
        support=tuple(examples.support.tolist()),
        accuracy=fitted.accuracy,
        seed=seed,
        version=__version__,
        path=target,
    )
    save(target, headfile.to_bytes(saved))
    with progress.after():
        classifier.compile()
    zero_shot = top(Outcomes.of(examples.answers, classifier.scorer(examples.images)), 1)
    print_rows(("", ""), [*_rows(saved, zero_shot)])
    raise typer.Exit(say_unreadable(answers.paths, labelled.errors, "; the head knows the others", quiet=talk.quiet))


def _target(output: Path | None) -> Path:
    from clipzs.headfile import SUFFIX

    if output is None:
        raise UsageProblem("nothing says where the head is to be written", hint="name a file: -o head.safetensors")
    if output.suffix.lower() != SUFFIX:
        raise UsageProblem(f"-o {output}: a head is a {SUFFIX} file", hint=f"name it {output.with_suffix(SUFFIX)}")
    return output


def _rows(saved: "SavedHead", zero_shot: float) -> list[tuple[str, str]]:
    """What was made, for people and for cut -f."""
    accuracy = "not measured: too few images" if saved.accuracy is None else f"{saved.accuracy:.1%}"
    setting = ", ".join(f"{name} {value:.3g}" for name, value in saved.setting.items())
    return [
        ("head", str(saved.path)),
        ("model", saved.model),
        ("method", f"{saved.method} ({setting}, temperature {saved.temperature:.3g})"),
        ("classes", str(len(saved.labels))),
        ("images", str(sum(saved.support))),
        ("accuracy, cross-validated", accuracy),
        ("accuracy without the head", f"{zero_shot:.1%}"),
    ]
