"""Images of lists, archives and tables, here and elsewhere: each once, in order, whatever is damaged."""

import bz2
import gzip
import io
import json
import lzma
import string
import tarfile
import time
from pathlib import Path

import pyarrow
import pytest
from fakehub import Server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from clipzs.batch import fetching, inputs, parts, planning, tables, tars
from clipzs.batch.folder import opened
from clipzs.batch.job import Inputs, Job
from clipzs.errors import ClipzsError, ImageError, SourceError, UsageProblem
from clipzs.images import Blob

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PACKED = {".tar": bytes, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}
NAMES = st.text(string.ascii_letters + string.digits + "_- é😀", min_size=1, max_size=150)
MEMBERS = st.lists(
    st.tuples(st.text(string.ascii_lowercase + "/", max_size=9), NAMES, st.sampled_from([".jpg", ".PNG", ".txt", ""]),
              st.binary(min_size=1, max_size=1500)),
    max_size=8,
)  # fmt: skip
PATHS = st.lists(
    st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), min_size=1).filter(
        lambda text: not text.startswith(("\ufeff", "/")) and "://" not in text
    ),
    min_size=1,
    max_size=20,
)


def archive(members, *, form=tarfile.PAX_FORMAT):
    """The bytes of a tar, and the images in it."""
    buffer, found = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, (folder, name, suffix, data) in enumerate(members):
            info = tarfile.TarInfo(f"{folder.strip('/')}/{number}{name}{suffix}".strip("/"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            if suffix in (".jpg", ".PNG"):
                found.append((info.name, data))
    return buffer.getvalue(), found


def read(path):
    found = [*tars.images(str(path))]
    images = [(one.name.removeprefix(f"{path}/"), one.data) for one in found if isinstance(one, Blob)]
    return images, [one for one in found if not isinstance(one, Blob)]


def lines(*paths, **more):
    return [json.loads(line) for line in inputs.listed(Inputs(tuple(map(str, paths)), **more))]


def images_of(job):
    """All images of a job, part by part."""
    here = job.folder()
    plan = planning.plan(job, here)
    return [[*inputs.images(part, here, timeout=5)] for part in plan]


# Archives


@QUICK
@given(MEMBERS, st.sampled_from([*PACKED]), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_an_archive_gives_its_images_in_order_however_it_is_packed(tmp_path, members, suffix, form):
    content, images = archive(members, form=form)
    path = tmp_path / f"shard{suffix}"
    path.write_bytes(PACKED[suffix](content))
    assert read(path) == (images, [])


@QUICK
@given(MEMBERS, st.integers(0, 1 << 20), st.sampled_from([*PACKED]))
def test_an_archive_that_was_cut_keeps_what_is_whole_and_says_that_the_rest_is_lost(tmp_path, members, cut, suffix):
    content, images = archive(members)
    whole = PACKED[suffix](content)
    path = tmp_path / f"shard{suffix}"
    path.write_bytes(whole[: cut % len(whole)])
    found, errors = read(path)
    assert found == images[: len(found)]
    if len(found) < len(images):
        assert [(one.path, "damaged archive" in one.error) for one in errors] == [(str(path), True)]
    assert len(errors) <= 1


def test_an_archive_whose_end_is_missing_between_two_members_is_not_taken_for_whole(tmp_path):
    content, images = archive([("", "a", ".jpg", b"x" * 512), ("", "b", ".jpg", b"y" * 512)])
    (tmp_path / "cut.tar").write_bytes(content[:1024])
    found, errors = read(tmp_path / "cut.tar")
    assert found == images[:1]
    assert "all behind 0a.jpg is lost" in errors[0].error


@QUICK
@given(MEMBERS, st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=20))
def test_an_archive_with_wrong_bytes_raises_nothing(tmp_path, members, spoiled):
    content = bytearray(archive(members)[0])
    for place, byte in spoiled:
        content[place % len(content)] = byte
    path = tmp_path / "shard.tar"
    path.write_bytes(content)
    found, errors = read(path)
    assert len(errors) <= 1 + len(members)
    assert len({name for name, _ in found}) <= len(members)


def test_garbage_in_the_middle_of_an_archive_is_not_its_end(tmp_path):
    content, _ = archive([("", name, ".jpg", b"x" * 512) for name in "abc"])
    (tmp_path / "x.tar").write_bytes(content[:1024] + b"?" * 512 + content[1536:])
    found, errors = read(tmp_path / "x.tar")
    assert [name for name, _ in found] == ["0a.jpg"]
    assert len(errors) == 1


def test_an_archive_that_cannot_be_opened_is_no_damaged_one(tmp_path):
    with pytest.raises(SourceError, match="cannot be opened"):
        read(tmp_path / "gone.tar")


def test_hidden_and_other_members_are_no_images(tmp_path):
    content, _ = archive([("__MACOSX", "a", ".jpg", b"x"), ("d", "b", ".json", b"{}"), ("d", "c", ".jpg", b"y")])
    (tmp_path / "x.tar").write_bytes(content)
    assert read(tmp_path / "x.tar") == ([("d/2c.jpg", b"y")], [])


# Lists


@settings(QUICK, max_examples=15)
@given(PATHS)
def test_paths_come_out_of_every_kind_of_list_as_they_went_in(tmp_path, paths):
    (tmp_path / "a.txt").write_text("\n".join(paths), encoding="utf-8", newline="")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"n": 1, "Url": path}) + "\n" for path in paths))
    parquet.write_table(pyarrow.table({"x": range(len(paths)), "filepath": paths}), tmp_path / "a.parquet")
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        cells = "".join(f'1{separator}"{path.replace(chr(34), chr(34) * 2)}"\n' for path in paths)
        (tmp_path / name).write_text(f"x{separator}image_path\n{cells}", encoding="utf-8", newline="")
    assert lines(tmp_path / "a.txt") == paths
    expected = [f"{tmp_path}/{path}" for path in paths]
    for name in ("a.jsonl", "a.parquet"):
        assert lines(tmp_path / name) == expected, name
    told = [f"{tmp_path}/{path}" for path in paths if not path.startswith("'")]  # which spreadsheets are told by
    for name in ("a.csv", "a.tsv"):
        assert [path for path in lines(tmp_path / name) if not path.startswith(f"{tmp_path}/'")] == told, name


def test_lists_may_be_parted_by_nul_bytes_and_have_any_name(tmp_path):
    (tmp_path / "found").write_bytes(b"a b.jpg\0c\nd.jpg\0")
    assert lines(lists=(str(tmp_path / "found"),), null=True) == ["a b.jpg", "c\nd.jpg"]
    with pytest.raises(UsageProblem, match="NUL byte"):
        lines(lists=(str(tmp_path / "found"),))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"name,label\nx,y\n", "no column of paths, but name, label"),
        ("a.jsonl", b'{"path": "x"}\n{"path"\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"path": 3}\n', "`path` is not text"),
        ("a.docx", b"whatever", "neither an image nor a list"),
        ("a.csv", b'path\n"x', "not a table"),
    ],
)
def test_what_is_no_list_is_refused_with_its_name(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageProblem, match=problem):
        lines(tmp_path / name)


def test_names_with_braces_and_patterns_stand_for_several_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("s-08", "s-09", "s-10", "t-b", "t-a", "u{1..2}"):
        Path(f"{name}.tar").write_bytes(archive([])[0])
    assert lines("s-{08..10}.tar") == [{"tar": f"s-{number}.tar"} for number in ("08", "09", "10")]
    assert lines("{t-b,s-10}.tar") == [{"tar": "t-b.tar"}, {"tar": "s-10.tar"}]
    several = ("t-b", "t-a", "s-08", "s-09", "s-10")
    assert lines("t-{b,a}.tar", "s-*.tar") == [{"tar": f"{name}.tar"} for name in several]
    assert lines("u{1..2}.tar") == [{"tar": "u{1..2}.tar"}]
    with pytest.raises(UsageProblem, match=r"s-07\.tar: no such file"):
        lines("s-{07..10}.tar")
    with pytest.raises(UsageProblem, match="nothing matches"):
        lines("v-*.tar")


def test_a_folder_is_listed_as_classify_finds_it(tmp_path):
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "b/x/skip.jpg", "note.txt", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert lines(tmp_path, exclude=("x",)) == [f"{tmp_path}/{name}" for name in ("a.jpg", "b/10.jpg", "b/2.jpg")]
    assert lines(tmp_path, recursive=False) == [f"{tmp_path}/a.jpg"]


LINES = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.tuples(st.text(max_size=5), st.text(max_size=5)),
        st.builds(lambda name: {"tar": name}, st.text(max_size=5)),
        st.builds(lambda rows: {"parquet": "t", "rows": rows}, st.lists(st.integers(0, 9), max_size=6)),
    ),
    max_size=40,
)


@QUICK
@given(LINES, st.integers(1, 12), st.integers(0, 99))
def test_a_plan_has_everything_once_and_in_order(named, size, start):
    raw = [(json.dumps(one) + "\n").encode() for one in named]
    plan = [*parts.planned(raw, size, start=start)]
    assert [part.id for part in plan] == [*range(len(plan))]
    assert [parts.read(part.as_line()) for part in plan] == plan
    content, shards = b"".join(raw), [one for one in named if isinstance(one, dict) and one.get("rows") != []]
    covered = b"".join(content[part.start - start : part.stop - start] for part in plan if part.kind == "paths")
    assert covered == b"".join(line for line in raw if not line.startswith(b"{"))
    assert all(part.images == covered_lines(content, part, start) <= size for part in plan if part.kind == "paths")
    rows = [row for one in named if isinstance(one, dict) for row in one.get("rows", ())]
    assert sum(part.images for part in plan if part.kind == "parquet") == sum(rows)
    assert sum(part.kind == "tar" for part in plan) == sum("tar" in one for one in shards)
    groups = [(part.start, part.stop) for part in plan if part.kind == "parquet"]
    assert sum(stop - first for first, stop in groups) == len(rows)


def covered_lines(content, part, start):
    return content[part.start - start : part.stop - start].count(b"\n")


# Tables


def test_a_table_of_img2dataset_is_cut_between_its_row_groups(tmp_path):
    keys = [f"{number:09}" for number in range(10)]
    table = {
        "url": ["x"] * 10,
        "key": keys,
        "status": ["success"] * 9 + ["failed_to_download"],
        "error_message": [None] * 9 + ["HTTP Error 404"],
        "jpg": [f"data {key}".encode() for key in keys[:9]] + [None],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "00000.parquet", row_group_size=2)
    job = Job(str(tmp_path / "out"), Inputs((str(tmp_path / "00000.parquet"),)), part_size=4)
    groups = images_of(job)
    assert [len(group) for group in groups] == [4, 4, 2]
    *images, failed = [one for group in groups for one in group]
    assert [(one.name, one.data) for one in images] == [
        (f"{tmp_path}/00000.parquet/{key}", f"data {key}".encode()) for key in keys[:9]
    ]
    assert (failed.path, failed.error) == (
        f"{tmp_path}/00000.parquet/{keys[9]}",
        "not downloaded: HTTP Error 404",
    )


@pytest.mark.parametrize("column", ["image", "photo"])
def test_a_table_of_hugging_face_names_images_by_their_path_or_row(tmp_path, column):
    rows = [{"bytes": b"a", "path": "x/a.jpg"}, {"bytes": b"b", "path": None}, None, {"bytes": None, "path": "c.jpg"}]
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"label": [1, 2, 3, 4], column: rows}), path)
    found = [*tables.images(str(path), 0, 0)]
    assert [(one.name, one.data) for one in found[:2]] == [
        (f"{path}/x/a.jpg", b"a"),
        (f"{path}/000000001", b"b"),
    ]
    assert [one.error for one in found[2:]] == ["no image in this row"] * 2


def test_a_damaged_table_is_an_error_of_its_own_and_what_is_before_the_damage_is_kept(tmp_path):
    data = [bytes([number]) * 5000 for number in range(40)]
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"jpg": data}), path, row_group_size=10, use_dictionary=False)
    whole = path.read_bytes()
    at = parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    path.write_bytes(whole[:at] + b"\xff" * 200 + whole[at + 200 :])
    found = [*tables.images(str(path), 0, 0)]
    assert [one.data for one in found[:-1]] == data[: len(found) - 1]
    assert "damaged" in found[-1].error
    path.write_bytes(whole[:-50])
    assert lines(path) == [{"parquet": str(path), "rows": None}]
    (only,) = tables.images(str(path), 0, 0)
    assert (only.path, "not a Parquet table, or damaged" in only.error) == (str(path), True)


def test_a_table_without_images_or_paths_is_refused(tmp_path):
    parquet.write_table(pyarrow.table({"a": [1], "b": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(UsageProblem, match="no column of images or of paths, but a, b"):
        lines(tmp_path / "t.parquet")


# Elsewhere


@pytest.fixture
def web(serve, monkeypatch):
    """A web server that answers by path: with bytes, a status, or what a function does."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetching, "_PAUSE_S", 0.0)

    def start(answers) -> Server:
        def reply(request):
            answer = answers[request.path]
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if callable(answer):
                answer(request)
            elif isinstance(answer, int):
                request.send_error(answer)
            else:
                request.send_response(200)
                request.send_header("Content-Length", str(len(answer)))
                request.end_headers()
                request.wfile.write(answer)

        return serve(reply)

    return start


def drip(request):
    request.send_response(200)
    request.end_headers()
    for _ in range(40):
        request.wfile.write(b"x")
        time.sleep(0.05)


def cut(content):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(2 * len(content)))
        request.end_headers()
        request.wfile.write(content)
        request.close_connection = True

    return answer


def elsewhere(request):
    request.send_response(302)
    request.send_header("Location", "file:///etc/hostname")
    request.end_headers()


@pytest.mark.parametrize(
    ("answer", "problem", "asked"),
    [
        (b"image", None, 1),
        ([503, b"image"], None, 2),
        (404, "the server says 404", 1),
        (503, "the server says 503", 3),
        (drip, "more than 0.2 s", 1),
        (cut(b"half"), "the connection ended before the file did", 3),
        (b"x" * 2000, "larger than", 1),
        (elsewhere, "the server says 302 .*not allowed", 1),
    ],
    ids=["there", "there at the second try", "missing", "failing", "slow", "cut", "too large", "sent on to a file"],
)
def test_an_image_from_the_web_is_fetched_whole_or_is_an_error(web, monkeypatch, answer, problem, asked):
    monkeypatch.setattr(fetching, "LARGEST", 1000)
    server = web({"/a.jpg": answer})
    if problem is None:
        assert fetching.fetch(f"{server.url}/a.jpg", 5.0) == b"image"
    else:
        with pytest.raises(ImageError, match=problem):
            fetching.fetch(f"{server.url}/a.jpg", 0.2)
    assert len(server.requests) == asked


def test_an_archive_from_the_web_is_read_as_it_comes_and_one_that_breaks_off_is_no_damaged_one(web):
    content, images = archive([("", name, ".jpg", name.encode() * 9000) for name in "abcd"])
    server = web({"/s-0.tar": content, "/s-1.tar": cut(content[:20_000]), "/s-2.tar": 404})
    whole, *others = lines(f"{server.url}/s-{{0..2}}.tar")
    assert read(whole["tar"])[0] == images
    for other, problem in zip(others, ("ended before", "404"), strict=True):
        with pytest.raises(SourceError, match=problem):
            read(other["tar"])


def test_listed_urls_are_fetched_in_order_among_files_of_this_machine(web, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "FETCHED_AT_ONCE", 4)
    there = {f"/{number}.jpg": f"image {number}".encode() for number in range(49)}
    server = web(there | {"/%C3%BC%20x.jpg?a=%20": b"image 49", "/gone.jpg": 410})
    names = ["here.jpg", *(f"{server.url}/{number}.jpg" for number in range(49)), f"{server.url}/ü x.jpg?a=%20"]
    (tmp_path / "list.txt").write_text("\n".join([*names, f"{server.url}/gone.jpg"]), encoding="utf-8")
    job = Job(str(tmp_path / "out"), Inputs((str(tmp_path / "list.txt"),)), part_size=30)
    first, second = images_of(job)
    assert first[0].path == "here.jpg"
    assert [one.data for one in [*first[1:], *second[:-1]]] == [f"image {number}".encode() for number in range(50)]
    assert second[-1].error == "the server says 410 Gone"


def test_an_object_store_has_folders_lists_archives_and_tables(tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    content, images = archive([("", "a", ".jpg", b"a" * 3000)])
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"png": [b"one", b"two"], "key": ["1", "2"]}), table)
    for name, data in {
        "in/b.jpg": b"b",
        "in/sub/c.png": b"c",
        "in/sub/no.txt": b"no",
        "s-0.tar": content,
        "s-1.tar": content,
        "t.parquet": table.getvalue(),
        "list.csv": b"path\nin/b.jpg\n",
    }.items():
        store.pipe_file(f"/{tmp_path.name}/{name}", data)
    top = f"memory://{tmp_path.name}"
    job = Job(f"{top}/out", Inputs(tuple(f"{top}/{name}" for name in ("in/", "s-*.tar", "t.parquet", "list.csv"))))
    found = [one for group in images_of(job) for one in group]
    names = [one.name.partition(tmp_path.name)[2] for one in found]
    assert names == [
        "/in/b.jpg", "/in/sub/c.png", "/s-0.tar/0a.jpg", "/s-1.tar/0a.jpg", "/t.parquet/1", "/t.parquet/2", "/in/b.jpg",
    ]  # fmt: skip
    assert [one.data for one in found] == [b"b", b"c", images[0][1], images[0][1], b"one", b"two", b"b"]


def test_a_store_whose_package_is_missing_is_named_with_it():
    with pytest.raises(UsageProblem, match="s3fs"):
        lines("s3://bucket/shard.tar")
    with pytest.raises(UsageProblem, match="no kind of place"):
        lines("nonsense://bucket/shard.tar")


def test_nothing_is_listed_twice_nor_by_halves(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.jpg").touch()
    job = Job(str(tmp_path / "out"), Inputs((str(tmp_path),)), part_size=2)
    here = job.folder()
    plan = planning.plan(job, here)
    (tmp_path / "6.jpg").touch()
    here.remove(planning.PLAN)  # as if killed between the two files
    assert planning.plan(job, here) == plan
    other = Job(str(tmp_path / "out"), Inputs((str(tmp_path), "more")), part_size=2)
    with pytest.raises(UsageProblem, match="another job: inputs was"):
        planning.plan(other, here)


def test_a_file_that_is_there_first_stays(tmp_path):
    for here in (opened(str(tmp_path / "out")), opened(f"memory://{tmp_path.name}/first")):
        here.write("a.json", b"one", first=True)
        here.write("a.json", b"two", first=True)
        assert here.read("a.json") == b"one"
        here.write("a.json", b"three")
        assert (here.read("a.json"), here.names()) == (b"three", {"a.json"})
        with pytest.raises(ZeroDivisionError), here.writing("b.json"):
            _ = 1 / 0
        assert here.names() == {"a.json"}


def test_a_plan_without_images_is_none(tmp_path):
    (tmp_path / "in").mkdir()
    job = Job(str(tmp_path / "out"), Inputs((str(tmp_path / "in"),)))
    with pytest.raises(ClipzsError, match="no images found"):
        planning.plan(job, job.folder())
    assert job.folder().names() == set()
