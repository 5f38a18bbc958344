"""What SECURITY.md promises: nothing in data is run, nothing is sent anywhere, a terminal obeys nobody else."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from terminals import shown_on_terminal

import clipzs
from clipzs.cli.show import print_lines, print_rows

PACKAGE = Path(clipzs.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
LABELS = ("--labels", "cat,rocket", "--model", "tiny")

# Calls that run what they are given, or build objects of any kind from it.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.load",
    "marshal.loads", "shelve.open", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "dill.load",
    "joblib.load", "numpy.load", "np.load", "subprocess.getoutput", "subprocess.getstatusoutput", "code.interact",
    "xml.etree.ElementTree.parse", "shutil.unpack_archive", "zipfile.ZipFile",
}  # fmt: skip


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unsafe(source: str) -> list[str]:
    """What in a source file would run data, start a shell or fill a format that came from data."""
    found = []
    for name, call in calls(ast.parse(source)):
        options = {option.arg: option.value for option in call.keywords}
        if name in FORBIDDEN or name.endswith((".extractall", ".extract")):
            found.append(name)
        if name == "tarfile.open" and ast.unparse(options.get("mode", ast.Constant(None))) != "'r|'":
            found.append(name)  # what is read as a stream is not unpacked
        if "shell" in options or any(isinstance(one, ast.Starred) and "shell" in ast.unparse(one) for one in call.args):
            found.append("shell")
        if name.rpartition(".")[2] in ("format", "format_map") and "." in name:
            text = call.func.value if isinstance(call.func, ast.Attribute) else None
            is_constant = isinstance(text, ast.Constant) or (isinstance(text, ast.Name) and text.id.isupper())
            if not is_constant:
                found.append(name)
        if name == "torch.load" and ast.unparse(options.get("weights_only", ast.Constant(None))) != "True":
            found.append(name)
    return found


def test_no_module_can_run_what_is_in_a_file_a_label_or_an_answer():
    assert len(SOURCES) > 30
    assert {path.name: problems for path in SOURCES if (problems := unsafe(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    ["eval(text)", "exec(text)", "template.format(label)", "self.text.format_map(names)", "yaml.load(text, Loader)",
     "pickle.load(file)", "run(command, shell=True)", "torch.load(path)", "torch.load(path, weights_only=False)",
     "archive.extractall(place)", "os.system(text)"],
)  # fmt: skip
def test_that_search_finds_what_it_looks_for(source):
    assert unsafe(source)


# YAML


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.system ['touch hacked']", "!!python/name:os.system", "!!python/module:os",
     "!!python/object/new:subprocess.Popen [['touch', 'hacked']]", "!!python/tuple [a, b]"],
)  # fmt: skip
def test_yaml_tags_build_no_objects_in_labels_and_templates(run, cat, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    Path("labels.yaml").write_text(f"- cat\n- rocket\n- {value}\n")
    Path("set.yaml").write_text(f"name: x\ntemplates:\n- {value}\n")
    for options in (("--labels-file", "labels.yaml"), ("--labels", "a,b", "--templates", "set.yaml")):
        result = run("classify", cat, *options, "--model", "tiny", "--json")
        assert result.exit_code in (0, 2)  # the text behind the tag may do for a label
        assert "Traceback" not in result.stderr
        if result.exit_code == 2:
            assert result.stderr.startswith(f"error: {options[-1]}:")
    assert not Path("hacked").exists()


@pytest.mark.parametrize("kind", ["labels", "templates"])
def test_yaml_that_unfolds_to_billions_of_values_is_refused_at_once(run, cat, tmp_path, kind):
    levels = ["l0: &l0 [lol, lol]", *(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12))]
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("\n".join(levels) + "\nlabels: *l11\nname: x\ntemplates: *l11\n")
    options = ("--labels-file", bomb) if kind == "labels" else ("--labels", "cat,dog", "--templates", bomb)
    result = run("classify", cat, *options, "--model", "tiny")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {bomb}:2: anchors and aliases (& and *) are not supported")


# Terminals


def test_escape_sequences_in_what_is_shown_are_neutralised(run, cat, tmp_path, monkeypatch):
    """In labels, names of files, models and template sets, and in all messages about them."""
    monkeypatch.chdir(tmp_path)
    evil = "\x1b]0;pwned\x07\x1b[2J\x9b31m"
    Path("labels.json").write_text(json.dumps([f"cat{evil}", f"dog{evil}", "x"]))
    Path(f"set{evil}.yaml").write_text(json.dumps({"name": f"n{evil}", "templates": [f"no place{evil}"]}))
    Path("bad.json").write_text(json.dumps([{"name": "a", evil: 1}]))
    shown = []
    for options in (
        ("--labels-file", "labels.json"),
        ("--labels-file", "labels.json", "--template", f"{evil * 80}<>"),  # cut, with a warning
        ("--labels-file", "bad.json"),
        ("--labels-file", f"{evil}.json"),
        ("--labels", f"{evil},{evil}"),
        ("--labels", "a,b", "--templates", f"set{evil}.yaml"),
        ("--labels", "a,b", "--templates", evil),
        ("--labels", "a,b", "--device", evil),
        ("--labels", "a,b", "-o", f"none{evil}/x"),
        ("--labels", "a,b", "--files-from", f"none{evil}"),
        ("--labels", "a,b", "--score", evil),
        (f"--{evil}",),
    ):
        result = run("classify", cat, f"none{evil}.jpg", "--model", "tiny", "-f", "table", *options)
        shown.append(result.stdout + result.stderr)
    shown.append(run("classify", cat, "--labels", "a,b", "--model", evil).stderr)
    shown.append(run("classify", cat, "--labels", "a,b", "--model", f"local-dir:{evil}").stderr)
    for text in shown:
        assert "pwned" in text
        assert {character for character in text if not character.isprintable()} <= {"\n"}


def test_lists_on_a_terminal_show_escapes_too(monkeypatch):
    def show():
        print_rows(("name", "about"), [("\x1b]0;pwned\x07", "\x9b31m"), ("a\nb", "c\td")])
        print_lines(["\x1b[2J"])

    shown = shown_on_terminal(monkeypatch, show)
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)  # the header's own style
    assert {character for character in plain if not character.isprintable()} == {"\n"}
    assert r"\x1b]0;pwned\x07" in plain
    assert r"\x1b[2J" in plain


# The network


BLOCKED = """
import socket, sys
class Statistics:
    def find_spec(self, name, *_):
        if name == "openvino_telemetry":
            _refused(name)
sys.meta_path.insert(0, Statistics())
def _refused(*args, **more):
    with open({marks!r}, "a") as file:
        file.write(repr(args[1:] or args) + "\\n")
    raise OSError("this test allows no network")
for name in ("connect", "connect_ex", "sendto", "sendmsg", "bind"):
    setattr(socket.socket, name, _refused)
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
    setattr(socket, name, _refused)
"""


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every attempt of a process to use the network fails, and leaves a line in this file."""
    marks = tmp_path / "attempts"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKED.format(marks=str(marks)))
    paths = [str(tmp_path / "site"), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return marks


def test_that_block_works(process, no_network):
    code = "import urllib.request; urllib.request.urlopen('http://localhost:9/')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "this test allows no network" in done.stderr
    assert no_network.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify", "{cat}", *LABELS, "--template", "a <>"),
        ("classify", "{cat}", *LABELS, "--engine", "torch", "--no-cache"),
        ("prompts", "expand", "--labels", "cat,dog"),
        ("models", "list"),
        ("models", "show", "tiny"),
        ("cache", "info"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]) + (" torch" if "torch" in arguments else ""),
)
def test_nothing_but_fetching_a_model_uses_the_network(process, no_network, cat, arguments):
    done = process(*(argument.format(cat=cat) for argument in arguments))
    assert (done.returncode, done.stderr) == (0, "")
    assert not no_network.exists()


def test_compiling_a_model_sends_no_statistics(process, no_network, cat, coffee, compiled):
    """OpenVINO's converters do when they are imported, on a thread that may outlive the answer."""
    done = process("classify", cat, coffee, *LABELS, "--engine", "openvino")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(compiled.glob("*/*.blob"))
    assert not no_network.exists()


# Permissions


def test_what_is_written_is_readable_by_whom_the_user_lets_read(run, cat, tmp_path):
    """Results follow the umask; nothing is ever writable by all."""
    before = os.umask(0o027)
    try:
        for name in ("x.jsonl", "x.json"):
            run("classify", cat, *LABELS, "-o", tmp_path / name, "--log", tmp_path / "log.json")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()}
    assert modes == {"x.jsonl": 0o640, "x.json": 0o640, "log.json": 0o640}


# Metadata


@pytest.mark.parametrize("place", ["comment", "exif", "xmp", "text"])
def test_metadata_of_images_is_never_shown_or_run(run, tmp_path, place):
    evil = "\x1b]0;pwned\x07<script>pwned</script>$(touch hacked)`touch hacked`"
    path, more = tmp_path / ("x.png" if place == "text" else "x.jpg"), {}
    image = Image.new("RGB", (8, 8), "red")
    if place == "exif":
        exif = Image.Exif()
        exif[0x010E] = exif[0x0131] = evil
        more = {"exif": exif.tobytes()}
    elif place == "text":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("Comment", evil)
        info.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{evil}</x:xmpmeta>")
        more = {"pnginfo": info}
    else:
        more = {"comment": evil.encode()} if place == "comment" else {"xmp": evil.encode()}
    image.save(path, **more)
    for format_ in ("table", "json", "csv"):
        result = run("classify", path, *LABELS, "-f", format_, "--verbose")
        assert result.exit_code == 0
        assert "pwned" not in result.stdout + result.stderr
    assert not list(tmp_path.rglob("hacked"))
