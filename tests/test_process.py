"""What only a real process shows: pipes, signals, terminals. A few, each for several promises."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from terminals import Screen

LABELS = ("--labels", "cat,a cup of coffee,rocket", "--model", "tiny")
PATIENCE_S = 120


def start(*args: object, **more: Any) -> "subprocess.Popen[bytes]":
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "clipzs", "classify", *map(str, args), *LABELS]
    # A shell starts background jobs deaf to Ctrl-C, and what they start inherits that.
    return subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **(pipes | more))


def give(process: "subprocess.Popen[bytes]", path: Path) -> None:
    assert process.stdin is not None
    process.stdin.write(bytes(path) + b"\n")
    process.stdin.flush()


def next_line(stream: "IO[bytes] | None") -> bytes:
    assert stream is not None
    return stream.readline()


def wait_until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_pipeline_sees_each_result_before_the_next_path_is_given(cat, coffee, tmp_path):
    process = start("-", "--json")
    give(process, cat)
    assert json.loads(next_line(process.stdout))["label"] == "cat"
    give(process, tmp_path / "missing.jpg")
    assert json.loads(next_line(process.stdout))["error"] == "no such file"
    give(process, coffee)
    assert json.loads(next_line(process.stdout))["label"] == "a cup of coffee"
    rest, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, rest, errors) == (3, b"", b"error: 1 of 3 images could not be read\n")


def test_ctrl_c_leaves_the_lines_written_so_far_in_the_file(cat, coffee, tmp_path):
    out, log = tmp_path / "out.jsonl", tmp_path / "log.json"
    out.write_text("of an earlier run\n")
    process = start("-", "-o", out, "--log", log)
    assert out.read_text() == "of an earlier run\n"
    give(process, cat)
    wait_until(lambda: '"cat"' in out.read_text() and out.read_text().endswith("\n"))
    give(process, coffee)
    wait_until(lambda: out.read_text().count("\n") == 2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (130, b"")
    assert errors == (
        b"note: stopped after 2 images; what was written is complete\n"
        b"hint: the same command with --resume goes on from there\n"
    )
    assert [json.loads(line)["label"] for line in out.read_text().splitlines()] == ["cat", "a cup of coffee"]
    assert (json.loads(log.read_text())["images"], json.loads(log.read_text())["interrupted"]) == (2, True)


def at_work(cat: Path, folder: Path, *args: object) -> "tuple[subprocess.Popen[bytes], int]":
    """A process that has labelled a photo and now waits for another, from a pipe that never ends."""
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    process = start("-", "--cache-dir", folder / "cache", *args)
    give(process, cat)
    wait_until(lambda: list(folder.glob("cache/labels/*.sqlite")))  # made just before the first photo is labelled
    give(process, folder / "pipe")
    end = os.open(folder / "pipe", os.O_WRONLY)
    time.sleep(2)
    return process, end


def test_ctrl_c_still_gives_a_whole_json_document_and_does_not_wait_for_a_stuck_pipe(cat, tmp_path):
    process, end = at_work(cat, tmp_path / "work", "--format", "json")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    os.close(end)
    document = json.loads(output)
    assert process.returncode == 130
    assert errors == b"note: stopped after 1 images; what was written is complete\n"
    assert document["run"]["interrupted"] is True
    assert [record["label"] for record in document["results"]] == ["cat"]


def test_a_process_killed_on_the_way_leaves_the_old_document(cat, tmp_path):
    (tmp_path / "old.json").write_text('{"old": true}')
    process, end = at_work(cat, tmp_path / "work", "-o", tmp_path / "old.json")
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    os.close(end)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "old.json").read_text() == '{"old": true}'
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"old.json", "work"}


def test_a_reader_that_has_seen_enough_ends_it_quietly_and_a_photo_may_come_on_standard_input(cat, coffee, tmp_path):
    clipzs = f"{shlex.quote(sys.executable)} -m clipzs classify"
    labels = shlex.join(LABELS)
    # The reader takes a line and goes; only then is the second path given, so that its line meets a closed pipe.
    script = f"""
        {{ echo {shlex.quote(str(cat))}; while [ ! -e gone ]; do sleep 0.05; done; echo {shlex.quote(str(coffee))}; }} |
            {{ {clipzs} - {labels}; echo "code $?" >&2; }} | {{ head -n 1 | cut -f 2; exec <&-; touch gone; }}
        {clipzs} /dev/stdin {labels} < {shlex.quote(str(coffee))}
    """
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path)
    first, second = result.stdout.splitlines()
    assert first == "cat"
    assert second.split("\t")[:2] == ["/dev/stdin", "a cup of coffee"]
    assert result.stderr == "code 0\n"


def test_a_full_disk_behind_standard_output_is_one_line(cat):
    with open("/dev/full", "wb") as full:
        process = start(cat, stdout=full)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors == (
        b"error: standard output: cannot be written: No space left on device\nhint: choose another place for it\n"
    )


def test_progress_is_for_terminals_and_never_in_the_results(cat, coffee, tmp_path):
    """Even when the list of paths comes through a pipe, which can be read only once."""
    os.mkfifo(tmp_path / "paths")
    terminal = dict(os.environ, TERM="xterm", COLUMNS="100")
    bar, quiet = Screen(), Screen()
    process = start("--files-from", tmp_path / "paths", stderr=bar.terminal, env=terminal)
    (tmp_path / "paths").write_bytes(bytes(cat) + b"\n" + bytes(coffee) + b"\n")
    lines, _ = process.communicate(timeout=PATIENCE_S)
    assert [line.split(b"\t")[1] for line in lines.splitlines()] == [b"cat", b"a cup of coffee"]
    assert b"\x1b" not in lines
    shown = bar.shown()
    assert "images" in shown
    assert "2/" in shown

    process = start(cat, "--quiet", stderr=quiet.terminal, env=terminal)
    process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, quiet.shown()) == (0, "")


def test_on_a_terminal_the_results_are_a_table_and_the_bar_is_gone_before_it(cat):
    screen = Screen()
    environment = dict(os.environ, TERM="xterm", COLUMNS="30")
    del environment["NO_COLOR"]
    process = start(cat, cat, "-b", 1, stdout=screen.terminal, stderr=screen.terminal, env=environment)
    process.communicate(timeout=PATIENCE_S)
    bar, path, table = screen.shown().partition(f"\x1b[1m{cat}\x1b[0m\n")
    assert (process.returncode, bool(path)) == (0, True)
    assert bar.count("\x1b[?25l") == bar.count("\x1b[?25h")  # the cursor it hid is back
    assert "\x1b[?25l" not in table
    first, *_, summary = table.splitlines()
    assert first.startswith("\x1b[32m  cat ")
    assert "█" in first
    assert summary.split()[:2] == ["cat", "2"]
