"""What all tests share: an environment of their own, the command in process and as a real process, real photos."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browsing
import fakehub
import pytest
from typer.testing import CliRunner, Result

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

Run = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shared_compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled models for all tests; the embedded one is there, so that every test of it runs on the same engine."""
    from clipzs import Classifier

    folder = tmp_path_factory.mktemp("shared")
    classifier = Classifier(["cat", "dog"], model="tiny", cache_dir=folder, image_cache=False)
    _ = [*classifier.classify(EXAMPLES / "cat.jpg")]
    classifier.compile()
    return folder / "compiled"


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared_compiled: Path) -> Iterator[None]:
    """No test sees the user's caches, settings or network, nor another test's; only compiled models are shared."""
    import huggingface_hub.constants as hub

    for name in [name for name in os.environ if name.startswith(("CLIPZS_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLIPZS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPZS_PROMPTS_DIR", str(tmp_path / "prompts"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CLIPZS_DECIMALS", "6")  # tests compare scores more closely than they are printed
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "compiled").symlink_to(shared_compiled)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    return


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of compiled models in a cache of the test's own."""
    monkeypatch.setenv("CLIPZS_CACHE_DIR", str(tmp_path / "own"))
    return tmp_path / "own" / "compiled"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the hub's client use a network whose hub is at the given address."""
    import huggingface_hub

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def at(url: str) -> None:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", url)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)

    return at


@pytest.fixture
def serve() -> Iterator[Callable[[fakehub.Reply], fakehub.Server]]:
    """Start a hub that does with each request what it is told."""
    running = []

    def start(reply: fakehub.Reply) -> fakehub.Server:
        running.append(fakehub.Server(reply))
        return running[-1]

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def run() -> Run:
    """The command in this process: `run("classify", image, "--labels", "cat,dog")`."""
    from clipzs.cli import app

    runner = CliRunner()

    def invoke(*args: object, **more: Any) -> Result:
        return runner.invoke(app, [os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in args], **more)

    return invoke


@pytest.fixture
def process() -> Process:
    """The command as a real process with pipes: exact bytes in, text out. Some seconds each: use sparingly."""

    def start(*args: object, **more: Any) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "clipzs", *map(os.fspath, map(_text, args))]
        more = {
            "capture_output": True,
            "text": True,
            "timeout": 240,
            "encoding": "utf-8",
            "errors": "surrogateescape",
        } | more
        return subprocess.run(command, check=False, **more)

    return start


def _text(value: object) -> "str | bytes | os.PathLike[str]":
    return value if isinstance(value, (str, bytes, os.PathLike)) else str(value)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small random model by its kind (see models.CONFIGS), for `local-dir:`; made once."""
    import models  # with it comes torch, which most tests do without

    root = tmp_path_factory.getbasetemp() / "models"
    return lambda kind: models.checkpoint(kind, root)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the tests of pages; they share it."""
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture
def cat() -> Path:
    """A real photo of a cat."""
    return EXAMPLES / "cat.jpg"


@pytest.fixture
def coffee() -> Path:
    """A real photo of a cup of coffee."""
    return EXAMPLES / "coffee.jpg"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-docs", action="store_true", help="rewrite the generated part of docs/cli.md")
