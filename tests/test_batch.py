"""Very many images in parts: every one once, the same numbers whoever does which part, and nothing done by halves."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from clipzs import records
from clipzs.batch import failures, planning
from clipzs.batch.job import Inputs, Job
from clipzs.batch.worker import Worker
from clipzs.labels import from_names
from clipzs.options import Options

ASKED = ("--model", "tiny", "--labels", "cat,dog,cup of coffee", "-b", "4")


def picture(number):
    """The bytes of a small PNG, of which no two are alike."""
    rng, buffer = np.random.default_rng(number), io.BytesIO()
    patches = rng.integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(patches.repeat(16, 0).repeat(16, 1)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path):
    """A folder of ten images, of which one cannot be read."""
    for number in range(10):
        path = tmp_path / "in" / f"{number // 5}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number) if number != 3 else b"no image")
    return tmp_path / "in"


def tar_of(path, numbers):
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            info = tarfile.TarInfo(f"{number:04}.png")
            info.size = len(picture(number))
            tar.addfile(info, io.BytesIO(picture(number)))


def output(out):
    """The parts by their names, as bytes."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}


def rows(out):
    return [*records.read(out)]


def test_the_parts_hold_what_classify_writes_and_a_summary_says_what_is_in_them(run, pictures, tmp_path):
    written = run("classify", pictures, *ASKED, "--json")
    done = run("batch", pictures, *ASKED, "--out", tmp_path / "out", "--part-size", "4", "--format", "jsonl")
    assert (done.exit_code, done.stdout) == (3, "")
    parts = output(tmp_path / "out")
    assert [*parts] == ["part-000000.jsonl", "part-000001.jsonl", "part-000002.jsonl"]
    assert b"".join(parts.values()).decode() == written.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    labels = [json.loads(line)["label"] for line in written.stdout.splitlines()]
    assert (summary["parts"], summary["images"], summary["errors"]) == (3, 10, 1)
    assert summary["labels"] == {label: labels.count(label) for label in summary["labels"]}
    assert sum(summary["labels"].values()) == 9
    assert "10 images in 3 parts" in done.stderr
    assert "1 of 10 images could not be read" in done.stderr


def test_shards_in_any_order_write_what_one_process_writes(run, pictures, tmp_path):
    tar_of(tmp_path / "s.tar", range(20, 26))
    asked = (pictures, tmp_path / "s.tar", *ASKED, "--part-size", "4", "--embeddings")
    assert run("batch", *asked, "--out", tmp_path / "one").exit_code == 3
    codes = []
    for shard in (2, 0, 1):
        done = run("batch", *asked, "--out", tmp_path / "three", "--num-shards", "3", "--shard", shard)
        codes.append(done.exit_code)
        assert ("summary.json" in os.listdir(tmp_path / "three")) == (shard == 1)
    assert codes == [0, 3, 3]  # the last has the summary of all to go by
    one, three = (sorted((tmp_path / out).glob("part-*")) for out in ("one", "three"))
    assert [path.name for path in one] == [path.name for path in three]
    for first, second in zip(one, three, strict=True):
        assert parquet.read_table(first).equals(parquet.read_table(second))
    assert (tmp_path / "one" / "summary.json").read_bytes() == (tmp_path / "three" / "summary.json").read_bytes()
    vectors = parquet.read_table(one[0])["embedding"].to_pylist()
    assert vectors[3] is None
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)
    assert [row.path for row in rows(tmp_path / "one")][-1] == f"{tmp_path}/s.tar/0025.png"


def test_a_job_goes_on_and_makes_anew_only_what_is_missing(run, pictures, tmp_path):
    asked = ("batch", pictures, *ASKED, "--part-size", "4", "--format", "jsonl", "--out", tmp_path / "out")
    assert run(*asked).exit_code == 3
    before, plan = output(tmp_path / "out"), (tmp_path / "out" / "plan.jsonl").read_bytes()
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    (tmp_path / "out" / "part-000001.jsonl").unlink()
    (pictures / "new.png").write_bytes(picture(99))  # which is not in the plan
    (tmp_path / "out" / ".part-000001.jsonl.killed.part").write_bytes(b"half")
    assert run(*asked).exit_code == 3
    assert output(tmp_path / "out") == before
    assert (tmp_path / "out" / "plan.jsonl").read_bytes() == plan
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert {name for name in times if times[name] != kept[name]} == {"part-000001.jsonl"}
    assert not [*(tmp_path / "out").glob(".*.part")]
    again = run(*asked)
    assert (again.exit_code, output(tmp_path / "out")) == (3, before)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (("--label", "horse"), "labels differ: it has no 'horse'"),
        (("--min-score", "0.5"), "--min-score"),
        (("--part-size", "5"), "--part-size was 4, now 5"),
        (("--decimals", "3"), "--decimals was 6, now 3"),
        (("--embeddings",), "--embeddings was unset, now float32"),
        (("--exact-decode",), "--exact-decode was off, now on"),
        (("--exclude", "x"), "--exclude was unset, now 'x'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_another_job_in_the_same_folder_is_refused_with_what_differs(run, pictures, tmp_path, changed, difference):
    inputs, options = Inputs((str(pictures),), folder=os.getcwd()), Options(model="tiny", batch_size=4)
    job = Job(str(tmp_path / "out"), inputs, tuple(from_names(["cat", "dog"])), options, decimals=6, part_size=4)
    job.settle(job.folder(), job.classifier())
    asked = ["batch", pictures, "--out", tmp_path / "out", "--model", "tiny", "-b", "4", "--part-size", "4"]
    done = run(*asked, "--labels", "cat,dog", *changed)
    assert (done.exit_code, difference in done.stderr) == (2, True), done.stderr
    assert "another folder with --out" in done.stderr
    assert not output(tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(run, pictures, tmp_path):
    done = run("batch", pictures, *ASKED, "--out", pictures)
    assert (done.exit_code, "no job of clipzs" in done.stderr) == (2, True)
    assert sorted(os.listdir(pictures)) == ["0", "1"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--num-shards", "3"), "go together"),
        (("--num-shards", "3", "--shard", "3"), "the last is 2"),
        (("--ray", "local", "--num-shards", "2", "--shard", "0"), "--ray shares out the parts itself"),
        (("--workers", "2"), "--workers is for --ray"),
        (("--format", "jsonl", "--embeddings"), "a column of Parquet"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_made(run, tmp_path, options, problem):
    done = run("batch", tmp_path, *ASKED, "--out", tmp_path / "out", *options)
    assert (done.exit_code, problem in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_archive_costs_its_part_alone_and_is_tried_again(run, pictures, tmp_path):
    tar_of(tmp_path / "s-0.tar", range(20, 24))
    tar_of(tmp_path / "s-1.tar", range(30, 34))
    asked = ("batch", tmp_path / "s-{0..1}.tar", pictures, *ASKED, "--out", tmp_path / "out")
    job_of(asked, tmp_path)
    (tmp_path / "s-0.tar").rename(tmp_path / "away.tar")
    done = run(*asked)
    assert (done.exit_code, "cannot be opened" in done.stderr) == (1, True), done.stderr
    assert "part 000000" in done.stderr
    assert [*output(tmp_path / "out")] == ["part-000001.parquet", "part-000002.parquet"]
    (tmp_path / "away.tar").rename(tmp_path / "s-0.tar")
    done = run(*asked)
    assert done.exit_code == 3
    assert [row.path for row in rows(tmp_path / "out")][:4] == [f"{tmp_path}/s-0.tar/{n:04}.png" for n in range(20, 24)]
    assert not [*(tmp_path / "out" / "failed").iterdir()]


def job_of(asked, tmp_path):
    """The job of a command, planned."""
    named = tuple(str(one) for one in asked[1 : asked.index("--model")])
    inputs, options = Inputs(named, folder=os.getcwd()), Options(model="tiny", batch_size=4)
    labels = tuple(from_names(["cat", "dog", "cup of coffee"]))
    job = Job(str(tmp_path / "out"), inputs, labels, options, decimals=6)
    return job, planning.plan(job, job.folder())


def test_an_archive_that_is_cut_keeps_its_first_images_and_says_what_is_lost(run, tmp_path):
    tar_of(tmp_path / "s.tar", range(6))
    content = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(content[: len(content) // 3])
    done = run("batch", tmp_path / "s.tar", *ASKED, "--out", tmp_path / "out")
    assert done.exit_code == 3
    *images, lost = rows(tmp_path / "out")
    assert 0 < len(images) < 6
    assert all(image.error is None for image in images)
    assert (lost.path, "is lost" in lost.error) == (f"{tmp_path}/s.tar", True)


def test_a_part_that_a_process_died_of_is_left_out_until_it_is_retried_and_loses_that_image_only(
    run, pictures, tmp_path
):
    asked = ("batch", pictures, *ASKED, "--out", tmp_path / "out")
    job, (part,) = job_of(asked, tmp_path)
    here = job.folder()
    failures.note(here, part, "the worker died", alone=True)
    done = run(*asked)
    assert (done.exit_code, "part 000000: the worker died" in done.stderr) == (1, True), done.stderr
    assert "--retry-failed" in done.stderr
    failures.write(here, part, replace(failures.read(here, part), at=7))  # as a process leaves it that dies there
    done = run(*asked, "--retry-failed")
    assert done.exit_code == 3
    errors = {Path(row.path).name: row.error for row in rows(tmp_path / "out") if row.error}
    assert [*errors] == ["03.png", "07.png"]
    assert "died" in errors["07.png"]
    assert failures.numbers(here) == set()
    plain = run("classify", pictures, *ASKED, "--json").stdout.splitlines()
    alike = [json.loads(line)["label"] for line in plain]
    assert [row.label for row in rows(tmp_path / "out") if not row.error] == [
        label for number, label in enumerate(alike) if number not in (3, 7)
    ]


def test_an_object_store_takes_the_results_whole(run, pictures, tmp_path):
    import fsspec

    out = f"memory://{tmp_path.name}/out"
    asked = ("batch", pictures, *ASKED, "--part-size", "4")
    assert run(*asked, "--out", out).exit_code == 3
    assert run(*asked, "--out", tmp_path / "here").exit_code == 3
    store = fsspec.filesystem("memory")
    there = {path.rpartition("/")[2]: store.cat(path) for path in store.ls(f"/{tmp_path.name}/out", detail=False)}
    assert there.pop("job.json") == (tmp_path / "here" / "job.json").read_bytes()
    assert there == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir() if path.name != "job.json"}
    assert run(*asked, "--out", out).exit_code == 3


def test_what_a_worker_makes_does_not_depend_on_what_it_made_before(pictures, tmp_path):
    def made(out, order):
        inputs, options = Inputs((str(pictures),)), Options(model="tiny", batch_size=4)
        job = Job(str(tmp_path / out), inputs, tuple(from_names(["cat", "dog"])), options, "jsonl", part_size=3)
        worker, plan = Worker(job), planning.plan(job, job.folder())
        done = [worker.run(plan[number]) for number in order]
        assert all(worker.run(part).there for part in plan)
        return output(tmp_path / out), sorted((one.id, one.images, one.errors) for one in done)

    first, counts = made("a", (0, 1, 2, 3))
    assert made("b", (2, 0, 3, 1)) == (first, counts)
    assert counts == [(0, 3, 0), (1, 3, 1), (2, 3, 0), (3, 1, 0)]


@pytest.fixture
def many(tmp_path):
    """A folder of images enough to be stopped at."""
    (tmp_path / "many").mkdir()
    for number in range(240):
        (tmp_path / "many" / f"{number:04}.png").write_bytes(picture(number))
    return tmp_path / "many"


def start(*asked):
    return subprocess.Popen(
        [sys.executable, "-m", "clipzs", *map(str, asked)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_parts(out, count, process):
    end = time.monotonic() + 120
    while len([*out.glob("part-*")]) < count and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def test_a_job_that_is_stopped_and_killed_and_done_by_two_has_every_image_once(many, tmp_path):
    out = tmp_path / "out"
    asked = ("batch", many, *ASKED, "--part-size", "4", "--format", "jsonl", "--out", out)
    stopped = start(*asked)
    wait_for_parts(out, 3, stopped)
    stopped.send_signal(signal.SIGINT)
    printed, said = stopped.communicate(timeout=60)
    assert (stopped.returncode, printed) == (130, "")
    assert "the same command goes on from there" in said
    assert not [*out.glob(".*.part")]
    there = output(out)
    killed = start(*asked)
    wait_for_parts(out, len(there) + 3, killed)
    killed.kill()
    killed.communicate()
    assert output(out).items() >= there.items()
    assert len(output(out)) < 60
    both = [start(*asked) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    found = [row.path for row in rows(out)]
    assert found == [f"{many}/{number:04}.png" for number in range(240)]
    assert all(content.count(b"\n") == 4 for content in output(out).values())
    assert json.loads((out / "summary.json").read_bytes())["images"] == 240
    assert not [*out.glob(".*.part")]


def test_one_machine_needs_neither_ray_nor_pyarrow_nor_torch(pictures, tmp_path):
    code = (
        "import sys; from clipzs.cli import app\n"
        f"try: app({['batch', str(pictures), *ASKED, '--format', 'jsonl', '--out', str(tmp_path / 'out')]!r})\n"
        "except SystemExit as stop: print(stop.code)\n"
        "print(sorted({'ray', 'pyarrow', 'fsspec', 'pandas', 'torch', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["3", "[]"]
    assert [*output(tmp_path / "out")] == ["part-000000.jsonl"]
