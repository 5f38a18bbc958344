"""`clipzs batch --ray`, for real: a cluster of two nodes on this machine, and processes that are killed in the middle.

A named pipe among the images stops whoever comes to it, so that a test knows what is under way and whose process it is.
"""

import errno
import importlib.util
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from conftest import EXAMPLES
from PIL import Image

from clipzs import __version__
from clipzs.batch.job import Inputs, Job
from clipzs.batch.raycluster import Node, Share, shared
from clipzs.batch.rayjobs import check_alike
from clipzs.errors import UsageProblem

needs_ray = pytest.mark.skipif(
    sys.platform != "linux" or importlib.util.find_spec("ray") is None,
    reason="looks for processes where Linux has them",
)
PATIENCE_S = 120
ASKED = ("--labels", "cat,a cup of coffee,rocket", "--model", "tiny", "--part-size", "3", "--image-timeout", "0")
JOB = ("batch", "list.txt", "images.tar", *ASKED)
LISTED = (
    *("a0.jpg", "a1.jpg", "a2.jpg"),
    *("a3.jpg", "driver.jpg", "a4.jpg"),
    *("worker.jpg", "a5.jpg", "a6.jpg"),
    *("one.jpg", "a7.jpg", "a8.jpg"),
    *("a9.jpg", "two.jpg", "b0.jpg"),
    *("b1.jpg", "poison.jpg", "broken.jpg"),
    *("b2.jpg", "b3.jpg"),
)
POISONED = 5  # the part with poison.jpg
GATES = ("driver.jpg", "worker.jpg", "one.jpg", "two.jpg", "poison.jpg")


def wait_for(happened: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := happened()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class Gate:
    """An image that is a named pipe: whoever reads it waits until the test says what becomes of him."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = -1
        os.mkfifo(path)

    def reader(self) -> tuple[int, int]:
        """The process that decodes it, as soon as there is one, and the worker of Ray whose it is."""
        return wait_for(self._opened)

    def _opened(self) -> tuple[int, int] | None:
        try:
            self._writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None
        for _ in range(50):
            for pid in self._readers():
                if "ray::" in command(parent(pid)):
                    return pid, parent(pid)
                kill(pid)  # its worker was killed before
            time.sleep(0.01)
        os.close(self._writer)
        return None

    def _readers(self) -> Iterator[int]:
        for pid in processes():
            try:
                opened = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
            except OSError:
                continue
            if pid != os.getpid() and str(self.path) in opened:
                yield pid

    def feed(self, image: bytes) -> None:
        """Let him have an image."""
        self.reader()
        self.give(image)

    def give(self, image: bytes) -> None:
        os.write(self._writer, image)
        os.close(self._writer)

    def drop(self, reader: int) -> None:
        """Be there for others: the worker of this process is gone."""
        kill(reader)
        os.close(self._writer)

    def kill(self) -> None:
        """Kill the worker that comes to it."""
        reader, worker = self.reader()
        kill(worker)
        self.drop(reader)


class Cluster:
    """Ray's nodes, each as `ray start` makes it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.environment = {
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "5e" * 32,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._folder, self._nodes = folder, []
        said = self.start("--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder / 'r'}")
        self.address = re.search(r"--address='([^']+)'", said)[1]  # type: ignore[index]

    def start(self, *options: str) -> str:
        """One more node; what Ray says of it."""
        out = self._folder / f"node{len(self._nodes)}"
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2"]
        more = ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        with out.open("w") as file:
            node = subprocess.Popen(
                [*ray, *more, *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self._nodes.append(node)
        wait_for(lambda: "Ray runtime started" in out.read_text() or node.poll() is not None)
        return out.read_text()

    def raylet(self, number: int) -> int:
        """The process that a node consists of."""
        ours = [pid for pid in processes() if parent(pid) == self._nodes[number].pid]
        return next(pid for pid in ours if "raylet/raylet" in command(pid))

    def close(self) -> None:
        for node in reversed(self._nodes):
            node.terminate()
        for node in self._nodes:
            node.wait(PATIENCE_S)
        wait_for(lambda: not any(str(self._folder) in command(pid) for pid in processes()))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, shared_compiled: Path) -> Iterator[Cluster]:
    cache = tmp_path_factory.mktemp("nodes")
    (cache / "compiled").symlink_to(shared_compiled)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLIPZS_", "HF_", "RAY_"))}
    environment |= {"CLIPZS_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        nodes = Cluster(Path(folder), environment)
        try:
            yield nodes
        finally:
            nodes.close()


@pytest.fixture
def photo() -> bytes:
    return jpeg(EXAMPLES / "coffee.jpg", 300)


def jpeg(path: Path, width: int) -> bytes:
    image = Image.open(path)
    image.thumbnail((width, width))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def images(tmp_path: Path, photo: bytes) -> Path:
    """A folder with a list of images, one of them broken, and an archive that ends in the middle of an image."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(LISTED):
        (folder / name).write_bytes(jpeg(EXAMPLES / ["cat.jpg", "coffee.jpg"][number % 2], 100 + 5 * number))
    for name in GATES:
        (folder / name).write_bytes(photo)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "list.txt").write_text("\n".join(LISTED))
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name in ("a0.jpg", "a1.jpg", "a2.jpg"):
            tar.add(folder / name, name)
    (folder / "images.tar").write_bytes(whole.getvalue()[:-12_000])
    return folder


def gates(folder: Path, *names: str) -> list[Gate]:
    for name in names:
        (folder / name).unlink()
    return [Gate(folder / name) for name in names]


@pytest.fixture
def begun() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the job in a folder, with more options, in an environment."""
    drivers = []

    def begin(folder: Path, *more: str, environment: dict[str, str]) -> "subprocess.Popen[str]":
        driver = subprocess.Popen(
            [sys.executable, "-m", "clipzs", *JOB, "--out", "out", *more],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        drivers.append(driver)
        return driver

    yield begin
    for driver in drivers:
        driver.kill()
        driver.communicate()


def ended(driver: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and what was said, which is all clipzs' own."""
    out, said = driver.communicate(timeout=PATIENCE_S)
    assert out == ""
    assert [
        line for line in said.splitlines() if not line.startswith(("note: ", "warning: ", "error: ", "hint: "))
    ] == []
    return driver.returncode, said


def parts_in(folder: Path) -> set[int]:
    return {int(path.stem[5:]) for path in folder.glob("part-*.parquet")}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted(folder.glob("part-*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


@needs_ray
def test_whoever_is_killed_every_image_has_one_row_and_the_same_as_without_ray(
    cluster, images, photo, begun, run, monkeypatch, tmp_path
):
    cluster.start(f"--address={cluster.address}")
    # Two shards without Ray, of images that stop nobody.
    monkeypatch.chdir(images)
    for shard in ("0", "1"):
        assert run(*JOB, "--out", "out", "--num-shards", "2", "--shard", shard).exit_code in (0, 3)
    expected = rows(images / "out")
    assert [row["path"] for row in expected][: len(LISTED)] == [*LISTED]

    work = tmp_path / "work"
    shutil.copytree(images, work, ignore=shutil.ignore_patterns("out"))
    out, on_ray = work / "out", ("--ray", cluster.address, "--workers", "2")
    driver, worker, one, two, poison = gates(work, *GATES)

    # The driver is killed when some parts are done and others are under way.
    job = begun(work, *on_ray, environment=cluster.environment)
    driver.reader()
    wait_for(lambda: parts_in(out))
    kill(job.pid)
    job.communicate()
    driver.give(b"")
    before = parts_in(out)
    assert not (out / "summary.json").exists()
    assert 1 not in before

    # The rest: a worker is killed once, a whole node once, and whoever touches one of the images each time.
    job = begun(work, *on_ray, environment=cluster.environment)
    with ThreadPoolExecutor() as threads:
        done = [threads.submit(driver.feed, photo)]
        done.append(threads.submit(lambda: (worker.kill(), worker.feed(photo))))
        done.append(threads.submit(lambda: [poison.kill() for _ in range(3)]))
        under_way = {gate: gate.reader() for gate in (one, two)}
        doomed = cluster.raylet(1)
        (dying,) = (gate for gate, (_, hand) in under_way.items() if parent(hand) == doomed)
        kill(doomed)
        (living,) = {one, two} - {dying}
        living.give(photo)
        wait_for(lambda: not command(under_way[dying][1]))  # it lives on for a moment
        dying.drop(under_way[dying][0])
        dying.feed(photo)
        for each in done:
            each.result()
    code, said = ended(job)
    assert code == 1
    assert f"error: part {POISONED:06}: its worker died 3 times, the last time on {socket.gethostname()}" in said
    everything = {*range(len(LISTED) // 3 + 2)}
    assert before < parts_in(out) == everything - {POISONED}

    # Without being told so, nobody touches it again.
    code, said = ended(begun(work, *on_ray, environment=cluster.environment))
    assert code == 1
    assert "its worker died 3 times" in said

    # Image by image, only that one is lost.
    job = begun(work, *on_ray, "--retry-failed", environment=cluster.environment)
    poison.kill()
    code, said = ended(job)
    assert code == 3, said
    got = rows(out)
    lost = LISTED.index("poison.jpg")
    assert got[lost]["path"] == "poison.jpg"
    assert got[lost]["error"] == "the process that worked on it died"
    assert got[:lost] + got[lost + 1 :] == expected[:lost] + expected[lost + 1 :]
    assert got[LISTED.index("broken.jpg")]["error"]

    # What does not fit is refused: Ray would wait for it.
    job = begun(work, "--ray", cluster.address, "--workers", "5", "--out", "other", environment=cluster.environment)
    code, said = ended(job)
    assert code == 2
    assert "error: 5 workers do not fit: the Ray cluster has room for" in said  # 2, once the other node is given up


@needs_ray
def test_ctrl_c_leaves_nothing_of_ray_and_whole_parts_that_need_no_ray_to_go_on(images, photo, begun, run, monkeypatch):
    (gate,) = gates(images, "two.jpg")
    out = images / "out"
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        environment = {"TMPDIR": temporary}
        job = begun(images, "--ray", "local", "--workers", "1", environment=environment)
        gate.reader()
        wait_for(lambda: len(parts_in(out)) == 4)
        job.send_signal(signal.SIGINT)
        code, said = ended(job)
        assert code == 130
        assert "the same command goes on" in said
        wait_for(lambda: not any(temporary in command(pid) for pid in processes()))
        assert os.listdir(temporary) == []
    gate.give(b"")
    assert parts_in(out) == {0, 1, 2, 3}
    gate.path.unlink()
    gate.path.write_bytes(photo)
    monkeypatch.chdir(images)
    assert run(*JOB, "--out", "out").exit_code == 3
    assert [row["path"] for row in rows(out)][: len(LISTED)] == [*LISTED]
    assert next(row["path"] for row in rows(out) if row["error"]) == "broken.jpg"


@pytest.fixture
def other_server() -> Iterator[str]:
    """The address of something that is no Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            try:
                while True:
                    server.accept()[0].sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            except OSError:
                return

        threading.Thread(target=answer, daemon=True).start()
        yield "{}:{}".format(*server.getsockname())
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:10001", "has to run on a machine of the cluster"),
        ("somewhere", "no address"),
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1"),
        (None, "is no Ray cluster"),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address, said, other_server, run, cat, tmp_path):
    result = run("batch", cat, "--out", tmp_path / "out", "--ray", address or other_server, *ASKED)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 2  # the error and a hint


def test_without_ray_the_error_says_what_to_install(run, cat, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("batch", cat, "--out", tmp_path / "out", "--ray", "local", *ASKED)
    assert result.exit_code == 2
    assert "pip install 'clipzs[ray]'" in result.stderr


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "share"),
    [
        ([Node(2)], None, None, Share(1, 2, 0)),
        ([Node(16)], None, None, Share(4, 4, 0)),
        ([Node(16), Node(6)], None, None, Share(5, 4, 0)),
        ([Node(64)], 2, None, Share(2, 32, 0)),
        ([Node(64)], 1, None, Share(1, 64, 0)),
        ([Node(4), Node(4)], 3, None, Share(3, 2, 0)),
        ([Node(32, 4), Node(32, 4), Node(8)], None, None, Share(8, 8, 1)),
        ([Node(16, 2)], None, 0.5, Share(4, 4, 0.5)),
        ([Node(16, 2)], None, 0.4, Share(4, 4, 0.4)),  # no worker has parts of two
        ([Node(16, 2)], 1, None, Share(1, 16, 1)),
        ([Node(4, 8)], None, None, Share(4, 1, 1)),  # as many as there are CPUs for
        ([Node(16, 2)], None, 0, Share(4, 4, 0)),
    ],
)
def test_a_cluster_is_divided_so_that_each_worker_fits_onto_a_machine(nodes, workers, gpus, share):
    assert shared(nodes, workers, gpus) == share


def test_workers_without_gpus_leave_them_alone():
    assert shared([Node(16, 2)], None, None, device="cpu") == Share(4, 4, 0)


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "said"),
    [
        ([], None, None, "room for 0"),
        ([Node(2), Node(2)], 5, None, "5 workers do not fit: the Ray cluster has room for 4"),
        ([Node(64, 2)], 5, 0.5, "room for 4"),
        ([Node(8)], None, 0.5, "no GPU"),
        ([Node(8, 4)], None, 2, "one GPU"),
    ],
)
def test_what_ray_would_wait_for_without_end_is_refused(nodes, workers, gpus, said):
    with pytest.raises(UsageProblem, match=said):
        shared(nodes, workers, gpus)


def test_a_machine_that_is_unlike_the_driver_is_refused(tmp_path, cat, monkeypatch):
    monkeypatch.chdir("/")  # a worker is somewhere else, and goes where relative paths start
    job = Job("out", Inputs(folder=str(tmp_path)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".seen").write_text("this one")
    check_alike(job, __version__, "this one", [str(cat)])
    with pytest.raises(UsageProblem, match=r"clipzs is .* there and 0\.0\.1 here"):
        check_alike(job, "0.0.1", "this one", [])
    with pytest.raises(UsageProblem, match="--out out is not the same folder there"):
        check_alike(job, __version__, "another", [])
    with pytest.raises(UsageProblem, match=r"gone\.jpg is not to be found there"):
        check_alike(job, __version__, "this one", ["gone.jpg"])
