"""Files, folders and lists in; image paths out."""

import contextlib
import csv
import io
import json
import os
import shutil
import socket
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipzs import Classifier
from clipzs.errors import UsageProblem
from clipzs.paths import Found, Selection, printable
from clipzs.writers import WRITERS

Stdin = Callable[[bytes], None]
LABELS = ("--labels", "cat,rocket", "--model", "tiny")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photos as cameras, NAS boxes and phones leave them; it is the current folder."""
    root = tmp_path / "photos"
    for name in (
        "b.JPG", "a.png", "notes.txt", ".hidden.jpg", "album.jpg.part", "sub/c.WebP", "sub/deep/d.tiff",
        "@eaDir/a.png", "__MACOSX/b.JPG", ".thumbnails/t.jpg", "#recycle/old.jpg", "sub/.git/e.png",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def stdin(tmp_path: Path) -> Iterator[Stdin]:
    """Bytes on file descriptor 0, which is what the list reader reads."""
    kept = os.dup(0)

    def give(content: bytes) -> None:
        (tmp_path / "stdin").write_bytes(content)
        file = os.open(tmp_path / "stdin", os.O_RDONLY)
        os.dup2(file, 0)
        os.close(file)

    yield give
    os.dup2(kept, 0)
    os.close(kept)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(["cat", "rocket"], model="tiny", cache=False)


def found(*paths: object, **how: object) -> list[str]:
    """The paths of a selection, none of which may be an error."""
    every = list(Selection([os.fspath(p) if isinstance(p, Path) else str(p) for p in paths], **how).find())  # type: ignore[arg-type]
    assert [one.error for one in every] == [None] * len(every)
    return [one.path for one in every]


def picture(path: Path | bytes) -> None:
    with open(path, "wb") as file:
        Image.new("RGB", (4, 4), "red").save(file, "PNG")


# Folders


def test_folders_are_searched_for_images_in_sorted_order_and_system_folders_left_alone(tree):
    assert found(".") == ["./a.png", "./b.JPG", "./sub/c.WebP", "./sub/deep/d.tiff"]


def test_no_recursive_stays_in_the_named_folder(tree):
    assert found("sub", recursive=False) == ["sub/c.WebP"]


def test_files_and_folders_keep_the_order_in_which_they_were_named(tree):
    assert found("sub/deep", "notes.txt", "sub", "a.png", "a.png") == [
        "sub/deep/d.tiff", "notes.txt", "sub/c.WebP", "sub/deep/d.tiff", "a.png", "a.png",
    ]  # fmt: skip


def test_a_file_named_by_the_user_is_tried_whatever_its_name_and_even_if_it_is_not_there(tree):
    named = ["album.jpg.part", ".hidden.jpg", "@eaDir/a.png", "missing.jpg", ""]
    assert found(*named) == named


def test_a_folder_named_by_the_user_is_searched_whatever_its_name(tree):
    assert found(".thumbnails", "@eaDir") == [".thumbnails/t.jpg", "@eaDir/a.png"]


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("*.png", ["./b.JPG", "./sub/c.WebP", "./sub/deep/d.tiff"]),
        ("deep", ["./a.png", "./b.JPG", "./sub/c.WebP"]),
        ("sub/", ["./a.png", "./b.JPG"]),
        ("sub/*", ["./a.png", "./b.JPG"]),
        ("./sub/c.*", ["./a.png", "./b.JPG", "./sub/deep/d.tiff"]),
        ("**/sub", ["./a.png", "./b.JPG"]),
        ("sub/**/d.tiff", ["./a.png", "./b.JPG", "./sub/c.WebP"]),
        ("sub/**/c.WebP", ["./a.png", "./b.JPG", "./sub/deep/d.tiff"]),
        ("b.jpg", ["./a.png", "./b.JPG", "./sub/c.WebP", "./sub/deep/d.tiff"]),
    ],
)
def test_exclude_leaves_out_entries_by_name_by_path_and_whole_folders(tree, glob, left):
    assert found(".", exclude=[glob]) == left


def test_an_absolute_exclude_means_that_place_only(tree):
    (tree / "sub" / "photos").mkdir()
    (tree / "sub" / "photos" / "a.png").write_bytes(b"")
    assert found(tree, exclude=[f"{tree}/a.png"]) == [
        f"{tree}/{name}" for name in ("b.JPG", "sub/c.WebP", "sub/deep/d.tiff", "sub/photos/a.png")
    ]


def test_several_excludes_add_up_and_files_named_by_the_user_stay(tree):
    assert found(".", "a.png", exclude=["*.png", "sub"]) == ["./b.JPG", "a.png"]


# Links


def test_links_to_files_and_folders_are_followed(tree):
    (tree / "link.jpg").symlink_to("sub/c.WebP")
    (tree / "sub2").symlink_to("sub/deep")
    (tree / "broken.jpg").symlink_to("nowhere.jpg")
    assert found(".") == [
        "./a.png", "./b.JPG", "./link.jpg", "./sub/c.WebP", "./sub/deep/d.tiff", "./sub2/d.tiff",
    ]  # fmt: skip


def test_links_that_go_in_circles_end(tree):
    (tree / "sub" / "up").symlink_to("..")
    (tree / "sub" / "deep" / "self").symlink_to(".")
    (tree / "me.jpg").symlink_to("me.jpg")
    assert found(".") == ["./a.png", "./b.JPG", "./sub/c.WebP", "./sub/deep/d.tiff"]


def test_a_link_to_itself_named_by_the_user_is_an_error_record(run, tree):
    (tree / "me.jpg").symlink_to("me.jpg")
    result = run("classify", "me.jpg", *LABELS, "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]) == (3, "Too many levels of symbolic links")


def test_folders_are_searched_however_deep_and_what_no_path_can_reach_has_a_record(tmp_path, monkeypatch):
    """A path of 4,096 bytes is the longest that can be opened; what lies deeper is told of, once."""
    monkeypatch.chdir(tmp_path)
    try:
        for depth in range(2500):  # Python's own stack ends at a thousand
            os.mkdir("d")
            os.chdir("d")
            if depth in (0, 1500, 2300):
                Path("x.png").touch()
        os.chdir(tmp_path)
        every = list(Selection(["."]).find())
        assert [one.path.count("/d") for one in every if one.error is None] == [1501, 1]
        (cut,) = (one for one in every if one.error)
        assert cut.error == "cannot look into this folder: File name too long"
        assert 2000 < cut.path.count("/d") < 2300
    finally:
        os.chdir(tmp_path)  # step by step, because `rmtree` is recursive and `rm -r` takes its time
        depth = 0
        while os.path.isdir("d"):
            os.chdir("d")
            depth += 1
        for _ in range(depth):
            Path("x.png").unlink(missing_ok=True)
            os.chdir("..")
            os.rmdir("d")


def test_only_the_names_of_one_folder_are_held_and_each_takes_less_than_a_hundred_bytes(tmp_path):
    number = 5000
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "source.png").touch()
        for each in range(number):
            os.link(tmp_path / folder / "source.png", tmp_path / folder / f"IMG_{each:07}.png")
    tracemalloc.start()
    assert sum(1 for _ in Selection([str(tmp_path)]).find()) == 2 * (number + 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * number + 50_000


# Folders that cannot be listed


def test_a_folder_removed_while_searching_is_reported_and_the_rest_goes_on(tree):
    search = Selection(["sub", "a.png"]).find()
    assert next(search) == Found("sub/c.WebP")
    shutil.rmtree("sub/deep")
    assert list(search) == [
        Found("sub/deep", "cannot look into this folder: No such file or directory"),
        Found("a.png"),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_has_its_error_record_and_the_rest_goes_on(run, tree, cat):
    (tree / "sub" / "deep").chmod(0)
    result = run("classify", "sub/deep", cat, *LABELS, "--json")
    (tree / "sub" / "deep").chmod(0o700)
    first, second = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 3
    assert (first["path"], first["error"]) == ("sub/deep", "cannot look into this folder: Permission denied")
    assert second["label"] == "cat"


# Whatever lies in a folder


KINDS = ("image", "text", "folder", "fifo", "socket", "broken link", "link to itself", "link up", "link", "empty name")


def lay_out(folder: Path, plan: list[tuple[str, list[Any]]]) -> Iterator[Path]:
    """Make a folder of things of all kinds; yields the paths of which there must be a record."""
    folder.mkdir()
    for number, (kind, inside) in enumerate(plan):
        path = folder / f"{number:02}{kind}.png"
        match kind:
            case "image":
                picture(path)
                yield path
            case "text":
                path.write_text("no picture")
                yield path
            case "folder":
                yield from lay_out(path, inside)
            case "fifo":
                os.mkfifo(path)
            case "socket":
                with contextlib.closing(socket.socket(socket.AF_UNIX)) as one, contextlib.chdir(folder):
                    one.bind(path.name)
            case "broken link":
                path.symlink_to("nowhere.png")
            case "link to itself":
                path.symlink_to(path.name)
            case "link up":
                path.symlink_to("..")
            case "link":
                picture(folder / f".{number}")
                path.symlink_to(f".{number}")
                yield path
            case "empty name":
                (folder / ".png").touch()


plans = st.recursive(
    st.lists(st.tuples(st.sampled_from(KINDS), st.just([])), max_size=6),
    lambda inside: st.lists(st.tuples(st.sampled_from(KINDS), inside), max_size=6),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans, mentions=st.lists(st.sampled_from(["tree", "missing.png", "tree/00image.png"]), max_size=4))
def test_of_every_image_there_is_one_record_a_mention_whatever_else_is_there(classifier, plan, mentions):
    with tempfile.TemporaryDirectory() as root:
        tree = os.path.join(root, "tree")
        named = [os.path.join(root, mention) for mention in mentions]
        wanted = sorted(map(os.fspath, lay_out(Path(tree), plan)))
        results = list(classifier.classify(Selection(named).find()))
        counted = sum(1 for _ in Selection(named).find(ordered=False))
    expected = [path for one in named for path in (wanted if one == tree else [one])]
    assert [result.path for result in results] == expected
    assert counted == len(expected)
    for result in results:
        assert (result.error is None) is (result.path in wanted and "text" not in result.path)


@pytest.mark.parametrize("kind", ["socket", "device", "folder gone", "nothing", "too long", "below a file"])
def test_what_is_named_and_is_no_image_has_an_error_record(run, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind("socket")
        named = {
            "socket": "socket", "device": "/dev/zero", "folder gone": "gone/", "nothing": "", "too long": "x" * 5000,
            "below a file": "/dev/null/x.png",
        }[kind]  # fmt: skip
        result = run("classify", named, *LABELS, "--json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["path"], record["label"]) == (3, named, None)
    assert record["error"]


def test_files_that_vanish_or_change_after_they_were_found_have_their_records(classifier, tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / f"{name}.png")

    def meanwhile() -> Iterator[Found]:
        for found in Selection([str(tmp_path)]).find():
            if "b.png" in found.path:
                os.unlink(found.path)
            if "c.png" in found.path:
                os.truncate(found.path, 20)
            yield found

    results = list(classifier.classify(meanwhile()))
    assert [Path(result.path).name for result in results] == ["a.png", "b.png", "c.png"]
    assert [result.error is None for result in results] == [True, False, False]
    assert results[1].error == "no such file"


# Lists


@pytest.mark.parametrize(
    ("content", "null", "paths"),
    [
        (b"a.png\nsub/c.WebP\n", False, ["a.png", "sub/c.WebP"]),
        (b"a.png\n\n\nb.JPG", False, ["a.png", "b.JPG"]),
        (b"a.png\r\nb.JPG\r\n\r\n", False, ["a.png", "b.JPG"]),
        (b"\xef\xbb\xbfa.png\n", False, ["a.png"]),
        (b" a b .png \n", False, [" a b .png "]),
        (b"-\n", False, ["-"]),
        (b"a.png\0new\nline.png\0cr\r\0\0", True, ["a.png", "new\nline.png", "cr\r"]),
        (b"caf\xe9.png\n", False, ["caf\udce9.png"]),
        (b"notes.txt\nsub\n", False, ["notes.txt", "sub/c.WebP", "sub/deep/d.tiff"]),
        (b"", False, []),
    ],
    ids=["lines", "empty lines", "CRLF", "BOM", "spaces", "a dash", "NUL", "not UTF-8", "a folder", "empty"],
)
def test_a_list_gives_the_same_from_standard_input_and_from_a_file(tree, stdin, content, null, paths):
    stdin(content)
    (tree / "list.txt").write_bytes(content)
    assert found("-", null=null) == paths
    assert found(lists=["list.txt"], null=null) == paths


def test_a_long_list_is_read_over_many_blocks(tree, stdin):
    names = [f"{number:06}-é.png" for number in range(20_000)]
    stdin("\n".join(names).encode())
    assert found("-") == names


def test_paths_and_lists_can_be_mixed(tree, stdin):
    stdin(b"b.JPG\n")
    (tree / "list.txt").write_text("sub/c.WebP\n")
    assert found("a.png", "-", "notes.txt", lists=["list.txt"]) == ["a.png", "b.JPG", "notes.txt", "sub/c.WebP"]


def test_files_from_dash_is_standard_input(tree, stdin):
    stdin(b"b.JPG\0a.png\0")
    assert found(lists=["-"], null=True) == ["b.JPG", "a.png"]


@pytest.mark.parametrize(("name", "why"), [("none.txt", "No such file or directory"), ("sub", "Is a directory")])
def test_a_list_that_cannot_be_read_is_a_usage_error(tree, name, why):
    with pytest.raises(UsageProblem, match=f"^{name}: cannot be read: {why}$"):
        found(lists=[name])


def test_only_ordinary_files_as_lists_can_be_counted_ahead(tree):
    (tree / "list.txt").write_text("a.png\n")
    os.mkfifo("pipe")
    assert not Selection(["sub"], ["list.txt"]).live
    assert Selection(["-"]).live
    assert Selection(lists=["pipe"]).live
    assert Selection(lists=["list.txt", "-"]).live


def test_each_path_of_a_pipe_is_known_as_soon_as_its_line_is_complete(tree):
    reading, writing = os.pipe()
    search = Selection(lists=[f"/dev/fd/{reading}"]).find()
    os.write(writing, b"a.png\nb.")
    assert next(search) == Found("a.png")
    os.write(writing, b"JPG\n")
    assert next(search) == Found("b.JPG")
    os.close(writing)
    assert list(search) == []
    os.close(reading)


# The same through the command


def test_every_way_to_name_the_photos_works_on_the_command_line(run, stdin, cat, coffee, tmp_path):
    (tmp_path / "list").write_bytes(bytes(cat) + b"\r\n")
    (tmp_path / "photos").mkdir()
    shutil.copy(coffee, tmp_path / "photos" / "cup.jpg")
    shutil.copy(cat, tmp_path / "photos" / "kitten.jpg")

    def classified(*args: object) -> list[str]:
        result = run("classify", *args, "--labels", "cat,a cup of coffee", "--model", "tiny", "-f", "label")
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout.splitlines()

    assert classified("--files-from", tmp_path / "list") == ["cat"]
    assert classified(tmp_path / "photos", "--exclude", "kit*") == ["a cup of coffee"]
    assert classified(tmp_path, "--no-recursive", cat) == ["cat"]
    stdin(bytes(coffee) + b"\n" + bytes(cat) + b"\n")
    assert classified("-") == ["a cup of coffee", "cat"]
    stdin(bytes(coffee) + b"\0" + bytes(cat) + b"\0")
    assert classified("-0") == ["a cup of coffee", "cat"]
    stdin(bytes(coffee) + b"\0")
    assert classified("--files-from", "-", "-0") == ["a cup of coffee"]


def test_a_photo_comes_in_through_a_pipe(run, cat):
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb") as pipe:
            pipe.write(cat.read_bytes())

    feeder = threading.Thread(target=feed)
    feeder.start()
    result = run("classify", f"/dev/fd/{reading}", *LABELS)
    feeder.join()
    os.close(reading)
    path, label, _ = result.stdout.rstrip("\n").split("\t")
    assert (result.exit_code, path, label) == (0, f"/dev/fd/{reading}", "cat")


def test_a_nul_separated_list_without_the_option_says_so(run, tree, stdin):
    stdin(b"a.png\0b.JPG\0")
    result = run("classify", "-", *LABELS, "--json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["path"]) == (3, "a.png\0b.JPG\0")
    assert record["error"] == "a path cannot hold a NUL byte; a list made with -print0 needs --null"


# Names

NASTY = [b"new\nline.png", b"tab\there.png", b"it's \"quoted\".png", b"esc\x1b[31mred.png", b"cr\rback.png",
         b"caf\xe9.png", b"\xff\xfe.png", "日本 😀.png".encode(), b"comma, semi;.png", b"=1+1.png",
         b"back\\nslash.png", b"[red]x.png", "\u2028\u202e\x85.png".encode(), b" .png",
         b"x" * 251 + b".png"]  # fmt: skip


def from_tsv(field: bytes) -> bytes:
    """The documented escapes of TSV, taken back."""
    parts = field.split(b"\\\\")
    return b"\\".join(part.replace(b"\\t", b"\t").replace(b"\\n", b"\n").replace(b"\\r", b"\r") for part in parts)


def paths_in(output: bytes, format_: str) -> list[bytes]:
    """The paths of an output, by parsers that are not ours."""
    if format_ == "json":
        return [os.fsencode(record["path"]) for record in json.loads(output)["results"]]
    if format_ == "jsonl":
        return [os.fsencode(json.loads(line)["path"]) for line in output.split(b"\n")[:-1]]
    if format_ == "csv":
        text = io.StringIO(output.decode("utf-8", "surrogateescape"), newline="")
        return [os.fsencode(row["path"]) for row in csv.DictReader(text)]
    return [from_tsv(line.split(b"\t")[0]) for line in output.split(b"\n")[:-1]]


@pytest.mark.parametrize("format_", ["json", "jsonl", "csv", "tsv"])
def test_any_name_comes_out_as_the_same_bytes(run, tmp_path, format_):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    for name in NASTY:
        picture(os.path.join(folder, name))
    result = run("classify", tmp_path / "odd", *LABELS, "-f", format_)
    assert (result.exit_code, result.stderr) == (0, "")
    assert paths_in(result.stdout_bytes, format_) == [os.path.join(folder, name) for name in sorted(NASTY)]


def test_the_table_shows_any_name_without_what_a_terminal_would_obey(run, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    for name in NASTY:
        picture(os.path.join(folder, name))
    text = run("classify", tmp_path / "odd", *LABELS, "-f", "table").stdout_bytes.decode("utf-8")
    assert {character for character in text if not character.isprintable()} == {"\n"}
    for shown in (r"new\nline.png", r"esc\x1b[31mred.png", r"caf\xe9.png", r"\u2028\u202e\x85.png", "[red]x.png"):
        assert f"/odd/{shown}\n" in text


def test_printable_leaves_scripts_and_emoji_alone():
    assert printable("日本 café 😀 עברית") == "日本 café 😀 עברית"
    assert printable("a\x1b]0;title\x07\x9b1m\x7f") == r"a\x1b]0;title\x07\x9b1m\x7f"


file_names = st.binary(min_size=1, max_size=40).filter(
    lambda name: not {0, ord("/")} & set(name) and not name.startswith(b".")
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(file_names, min_size=1, max_size=12), subfolder=file_names)
def test_every_file_comes_out_exactly_once_under_its_own_name_in_every_format(classifier, names, subfolder):
    with tempfile.TemporaryDirectory() as root:
        folder = os.path.join(os.fsencode(root), b"x" + subfolder)
        os.mkdir(folder)
        paths = [os.path.join(folder, name + b".png") for name in names]
        for path in paths:
            picture(path)
        results = list(classifier.classify(Selection([root]).find()))
    assert [result.error for result in results] == [None] * len(paths)
    for format_ in ("json", "jsonl", "csv", "tsv"):
        stream = io.BytesIO()
        writer = WRITERS[format_](stream)
        writer.write([replace(result, scores=result.scores[:1]) for result in results])
        writer.close({})
        assert paths_in(stream.getvalue(), format_) == sorted(paths)
