"""`clipzs export`: results in the formats of other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.groups import TalkGroup, grouped
from clipzs.cli.narration import Progress, say, set_up
from clipzs.cli.running import abandoned_on_failure, replayed
from clipzs.errors import SIGNALLED, SOME_IMAGES_FAILED, RecordsError, UsageProblem

if TYPE_CHECKING:
    from clipzs.exports.common import Export, Settings
    from clipzs.run import Passage

FORMAT = "Format"

Records = Annotated[
    str,
    typer.Argument(
        metavar="RESULTS", help="What classify, eval or batch has written, or corrections; - reads standard input."
    ),
]
To = Annotated[
    Literal["parquet", "hf", "labelstudio", "fiftyone", "cvat", "xmp", "iptc"],
    o.option("--to", help="What to write.", panel=o.OUTPUT),
]
Target = Annotated[
    Path | None,
    o.option(
        "--output",
        "-o",
        metavar="FILE",
        help="The file to write; of hf, metadata.jsonl in the folder of the images. xmp and iptc have none.",
        panel=o.OUTPUT,
    ),
]
MinScore = Annotated[
    float | None,
    o.option("--min-score", metavar="SCORE", help="Take an answer with less for none.", panel=o.ANSWERS),
]
Base = Annotated[
    Path | None,
    o.option(
        "--base",
        metavar="DIR",
        help="labelstudio, cvat: the folder that the tool sees; names are relative to it. "
        "Unless given, --root or the working folder.",
        panel=FORMAT,
    ),
]
UrlPrefix = Annotated[
    str,
    o.option("--url-prefix", metavar="URL", help="labelstudio: what comes before a name to make its URL.",
             panel=FORMAT),
]  # fmt: skip
FromName = Annotated[
    str, o.option("--from-name", metavar="NAME", help="labelstudio: of the Choices tag.", panel=FORMAT)
]
ToName = Annotated[
    str,
    o.option("--to-name", metavar="NAME", help="labelstudio: of the Image tag, and the key of its URL.", panel=FORMAT),
]
LabelConfig = Annotated[
    Path | None,
    o.option(
        "--label-config",
        metavar="FILE",
        help="labelstudio, cvat: write the definition of the labels there instead of standard output.",
        panel=FORMAT,
    ),
]
SidecarName = Annotated[
    Literal["file", "adobe"],
    o.option("--sidecar-name", help="xmp: file makes photo.jpg.xmp, adobe photo.xmp.", panel=FORMAT),
]
DryRun = Annotated[bool, o.option("--dry-run", "-n", help="xmp, iptc: only say what would be changed.", panel=FORMAT)]
Yes = Annotated[bool, o.option("--yes", help="iptc: do change the image files.", panel=FORMAT)]
Backup = Annotated[
    bool, o.option("--backup/--no-backup", help="iptc: keep each changed file as FILE_original.", panel=FORMAT)
]


@grouped
def export(
    ctx: typer.Context,
    results: Records,
    *,
    to: To,
    output: Target = None,
    root: o.Root = None,
    min_score: MinScore = None,
    unknown_label: o.UnknownLabel = defaults.UNKNOWN_LABEL,
    base: Base = None,
    url_prefix: UrlPrefix = "/data/local-files/?d=",
    from_name: FromName = "choice",
    to_name: ToName = "image",
    label_config: LabelConfig = None,
    sidecar_name: SidecarName = "file",
    dry_run: DryRun = False,
    yes: Yes = False,
    backup: Backup = True,
    talk: TalkGroup,
) -> None:
    """Write results in the format of another tool.

    parquet is a table; hf the metadata.jsonl of a Hugging Face imagefolder; labelstudio tasks with predictions;
    fiftyone its labels.json; cvat its annotations.xml with tags; xmp keywords in sidecars; iptc keywords in the image
    files themselves. docs/exports.md says what each holds.

    Exit codes: 0 all written, 1 failed or nothing to write, 2 wrong usage, 3 some images were left out (each is
    named), 130 stopped with Ctrl-C.
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    from clipzs.exports import FORMATS
    from clipzs.exports.common import Settings
    from clipzs.output import check_apart

    settings = Settings(
        target=output,
        unknown=unknown_label,
        min_score=min_score,
        base=base or root or Path(),
        url_prefix=url_prefix,
        from_name=from_name,
        to_name=to_name,
        label_config=label_config,
        sidecar_name=sidecar_name,
        dry_run=dry_run,
        yes=yes,
        backup=backup,
    )
    _check_heeded(ctx, to, settings)
    check_apart(output, [results, *([label_config] if label_config else [])])
    check_apart(label_config, [results], option="--label-config")
    writing = FORMATS[to].make(settings)
    with abandoned_on_failure(writing):
        run = replayed(results, [writing], Progress(enabled=not talk.quiet, until_first=False), root=root)
    if run.images == 0 and run.interrupted is None:
        raise RecordsError(f"{results}: there are no records in it", hint="`clipzs classify --json` writes some")
    raise typer.Exit(_concluded(run, writing, to, settings, quiet=talk.quiet))


def _check_heeded(context: typer.Context, to: str, settings: "Settings") -> None:
    """See that the command line says nothing that the format has no use for."""
    from clipzs.exports import FORMATS
    from clipzs.paths import IMAGE_SUFFIXES

    heeds, target = FORMATS[to].heeds, settings.target
    if ("target" in heeds) != (target is not None):
        if target is None:
            raise UsageProblem(f"--to {to} needs the file to write", hint="name it: -o FILE")
        where = "into the images" if to == "iptc" else "beside the images"
        raise UsageProblem(f"--to {to} writes {where}, and -o names a file", hint="leave out -o")
    if target is not None and target.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageProblem(f"-o {target} would overwrite an image", hint="name a file for the export after -o")
    if target is not None and settings.label_config is not None and target.resolve() == settings.label_config.resolve():
        raise UsageProblem("-o and --label-config name one file", hint="name another one")
    for name in {name for format_ in FORMATS.values() for name in format_.heeds} - heeds:
        if o.is_typed(context, name):
            using = ", ".join(other for other, format_ in FORMATS.items() if name in format_.heeds)
            raise UsageProblem(f"--{name.replace('_', '-')} means nothing to {to}", hint=f"it is for {using}")


def _concluded(run: "Passage", writing: "Export", to: str, settings: "Settings", *, quiet: bool) -> int:
    """The closing words, and the exit code."""
    if run.interrupted is not None:
        say(f"stopped after {run.images} records; nothing was written")
        return SIGNALLED + run.interrupted
    left_out = writing.left_out
    if not quiet:
        for path, reason in [*(run.reasons if to != "parquet" else []), *left_out.reasons]:
            say(f"{path}: {reason}", kind="error")
        if run.errors:
            say(f"{run.errors:,} of {run.images:,} images could not be read", kind="error")
        if left_out.count:
            say(f"{left_out.count:,} of {run.images:,} images were left out", kind="error")
        say(writing.summary())
        if to == "iptc" and not settings.yes:
            say("nothing was written; --yes changes the image files", kind="hint")
    return SOME_IMAGES_FAILED if run.errors or left_out.count else 0
