"""Loads every export that has a heavy reader with that reader: label-studio-sdk, FiftyOne, datumaro.

    python tools/check_exports/check.py --venv FOLDER

makes an environment in FOLDER (some 2 GB) unless it is there, exports results with hostile names and labels, and
compares what the tools find with what was answered. Exports that the tests load themselves (Parquet, imagefolder, XMP,
IPTC) are not checked again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from clipzs.results import Result, Score
from clipzs.writers import json_text

HERE = Path(__file__).parent
PHOTO = HERE.parent.parent / "examples" / "cat.jpg"
TOOLS = ("label-studio-sdk", "fiftyone", "datumaro")
NAMES = (
    "plain.jpg", "with space.jpg", "süß/Ä.jpg", "a&b<c>'d\".jpg", "100%25.jpg", "q?x=1#y.jpg", "🐈.jpg", "عربى.jpg",
    "-dash.jpg", "dots.in.name.jpg", "new\nline.jpg", "$dollar@at.jpg", "back\\slash.jpg",
)  # fmt: skip
LABELS = (
    "cat",
    "crème & <brûlée>",
    "quo\"te's",
    "猫",
    "👩‍👩‍👧",
    "שלום",
    "{x}$y",
    "]]>",
    "&amp;",
    "a, b",
    "-",
    "=1+1",
    "bell\x07 שלום\u202e",
)


def main() -> None:
    """Check all; stops at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, required=True, metavar="FOLDER")
    python = tools(parser.parse_args().venv)
    with tempfile.TemporaryDirectory() as folder:
        for several in (False, True):
            check(Path(folder).resolve() / str(several), python, several=several)


def tools(folder: Path) -> Path:
    """The Python of an environment that has the tools."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *TOOLS], check=True)
    return python


def check(root: Path, python: Path, *, several: bool) -> None:
    """Export results of one or several answers an image, load them, compare."""
    answers = {name: [label] for name, label in zip(NAMES, LABELS, strict=True)}
    if several:
        answers = {name: [*labels, "second"] for name, labels in answers.items()}
        answers["none.jpg"] = []
    else:
        answers["none.jpg"] = ["unknown"]
    write(root, answers, several=several)
    expected = {name: [label for label in labels if label != "unknown"] for name, labels in answers.items()}

    export(root, "labelstudio", "-o", "tasks.json", "--label-config", "config.xml", "--base", root)
    found = load(python, root, "labelstudio", "tasks.json", "config.xml")
    compare("labelstudio", found, {f"/data/local-files/?d={name}": in_xml(labels) for name, labels in expected.items()})

    export(root, "fiftyone", "-o", "labels.json")
    found = load(python, root, "fiftyone", "labels.json")
    compare("fiftyone", found, {str(root / name): labels for name, labels in expected.items()})

    export(root, "cvat", "-o", "annotations.xml", "--label-config", "labels.json", "--base", root)
    found = load(python, root, "cvat", "annotations.xml")
    # datumaro takes a backslash for a slash
    names = {name: os.path.splitext(name)[0].replace("\\", "/") for name in expected}
    compare("cvat", found, {names[name]: in_xml(labels) for name, labels in expected.items()})


def in_xml(labels: list[str]) -> list[str]:
    """With a replacement character for what XML cannot hold."""
    return [label.replace("\x07", "\ufffd") for label in labels]


def write(root: Path, answers: dict[str, list[str]], *, several: bool) -> None:
    """Images and the results of classifying them."""
    lines = []
    for name, labels in answers.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PHOTO.read_bytes())
        scores = tuple(Score(label, 0.75) for label in labels if label != "unknown")
        first = labels[0] if labels else "unknown"
        result = Result(name, first, 0.75 if scores else None, scores, tuple(labels) if several else None, model="m")
        lines.append(json_text(result.as_json()) + "\n")
    (root / "results.jsonl").write_text("".join(lines), encoding="utf-8")


def export(root: Path, *arguments: object) -> None:
    """Run the command in the folder of the images."""
    command = [sys.executable, "-m", "clipzs", "export", "results.jsonl", "--to", *map(str, arguments), "--quiet"]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)


def load(python: Path, root: Path, *arguments: str) -> dict[str, list[str]]:
    """What the real tool finds."""
    done = subprocess.run(
        [python.absolute(), HERE / "load.py", *arguments], cwd=root, check=True, capture_output=True, encoding="utf-8"
    )
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(tool: str, found: dict[str, list[str]], expected: dict[str, list[str]]) -> None:
    """Stop where they differ."""
    for name in {*found, *expected}:
        if found.get(name) != expected.get(name):
            sys.exit(f"{tool}: {name!r} has {found.get(name)}, not {expected.get(name)}")
    print(f"{tool}: {len(expected)} images as they were answered")


if __name__ == "__main__":
    main()
