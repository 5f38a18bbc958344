"""Coverage-guided fuzzing of everything that reads what others wrote.

    pip install atheris && python tools/fuzz/harness.py TARGET CORPUS -max_total_time=300

TARGET is one of the functions below; CORPUS a folder, filled with seeds if it is empty. Every input must end in a
result or in the error the function promises; anything else is a finding, which atheris writes to a file.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["clipzs", "PIL", "yaml", "csv", "json"]):
    from PIL import Image

    from clipzs import images, labelfiles, templates
    from clipzs.configuration import Configuration
    from clipzs.errors import ImageError, LabelsError, OutputError, TemplatesError, UsageProblem
    from clipzs.paths import Selection, printable
    from clipzs.preprocess import Preprocess
    from clipzs.resume import Earlier

    Image.init()  # imports the readers of all formats, so that they are watched too

warnings.simplefilter("ignore")
FOLDER = Path(tempfile.mkdtemp(prefix="clipzs-fuzz-"))
PREPROCESS = Preprocess((16, 16))
CONFIGURATION = Configuration(
    model="tiny",
    digest="d",
    labels=(("cat", "", ("a cat",)), ("dog", "", ("a dog",))),
    precision="fp32",
    exact_decode=False,
    score="softmax",
    by_group=False,
)


def image(data: bytes) -> None:
    """Pixels of the right size, or an ImageError of one line."""
    try:
        found = images.pixels(io.BytesIO(data), "x", PREPROCESS, max_megapixels=4.0)
    except ImageError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert (found.mode, found.size) == ("RGB", (16, 16))


def paths(data: bytes) -> None:
    """A list of paths: as many findings as entries that are no folders, and nothing that a terminal obeys."""
    null = data[:1] == b"0"
    listed = FOLDER / "list"
    listed.write_bytes(data[1:].replace(b"/", b"_").replace(b".", b"_"))  # no folder of this machine is walked
    for found in Selection(lists=[str(listed)], null=null).find():
        assert printable(found.path).isprintable() or not found.path.isprintable()
        assert "\x1b" not in printable(found.path)


def labels(data: bytes) -> None:
    """A labels file of any kind: labels, or a LabelsError that names the file."""
    suffix = (".txt", ".csv", ".json", ".yaml")[data[0] % 4] if data else ".txt"
    path = FOLDER / f"labels{suffix}"
    path.write_bytes(data[1:])
    try:
        found = labelfiles.read(path)
    except LabelsError as error:
        assert str(error)
    else:
        assert found
        assert all(isinstance(one.name, str) for one in found)


def template(data: bytes) -> None:
    """A template set: templates with a place for the label, or a TemplatesError."""
    path = FOLDER / "set.yaml"
    path.write_bytes(data)
    try:
        found = templates.read(path)
    except TemplatesError as error:
        assert str(error)
    else:
        assert found.templates
        assert all("\x00label" in templates.fill(one, "\x00label") for one in found.templates)


def resume(data: bytes) -> None:
    """What an earlier run left: whole records and where they end, or a UsageProblem."""
    path = FOLDER / "out.jsonl"
    path.write_bytes(data)
    try:
        earlier = Earlier(path, CONFIGURATION, scores=2)
    except (UsageProblem, OutputError) as error:
        assert str(error)
    else:
        assert earlier.end + earlier.torn == len(data)
        assert data[: earlier.end].count(b"\n") == earlier.records


def _record(**changes: object) -> bytes:
    scores = [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}]
    record = {"path": "a.jpg", "label": "cat", "score": 0.9, "scores": scores, "error": None, "model": "tiny"}
    return json.dumps({**record, "config": CONFIGURATION.hash, **changes}).encode() + b"\n"


def _image_seeds() -> list[bytes]:
    import hostile

    hostile.SIZE = (9, 7)
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        return [sample.content for sample in hostile.samples() if len(sample.content) < 6000]


SEEDS: dict[Callable[[bytes], None], Callable[[], list[bytes]]] = {
    image: _image_seeds,
    paths: lambda: [b"0a.jpg\0b\nc\0", b"1\xef\xbb\xbfa.jpg\r\nb \xff.png\n\n\n", b"1one\ntwo\x1b[31m"],
    labels: lambda: [
        b"\0cat\n# no\ndog\r\n",
        b'\1label,group\ncat,pets\n"a, ""b""",x\n',
        b'\2{"labels": ["cat", {"name": "dog", "aliases": ["hound"], "prompts": ["a <>"], "group": "g"}]}',
        b'\3labels:\n- cat\n- name: dog\n  aliases: [hound]\n- &a {name: x, prompts: ["a <>"]}\n- *a\n',
    ],
    template: lambda: (
        [path.read_bytes() for path in sorted((ROOT / "prompts").glob("*.yaml"))[:6]]
        + [b"name: x\ncontext: a kind\ntemplates:\n- a photo of a <>\n- '{} and {c}'\n"]
    ),
    resume: lambda: [
        _record() * 2,
        _record() + _record(path="b\udcff.png", label=None, score=None, scores=[], error="no such file"),
        _record() + b'{"path": "a',
        _record(model="other"),
        b"\0" * 40,
    ],
}


def main() -> None:
    """Fuzz the target that the first argument names."""
    targets = {target.__name__: target for target in SEEDS}
    target = targets[sys.argv[1]]
    corpus = Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for number, seed in enumerate(SEEDS[target]()):
            (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
