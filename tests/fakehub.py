"""A Hugging Face hub on this machine: repositories in memory over HTTP, with the faults a network can have."""

import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".safetensors", ".bin", ".pt", ".model", "tokenizer.json")  # kept with their SHA-256, as by git LFS

Reply = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers every request as `reply` does."""

    daemon_threads = True

    def __init__(self, reply: Reply) -> None:
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.server.requests.append((self.command, self.path, self.headers["Range"]))
                reply(self)

            do_GET = do_POST = do_HEAD

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def knocks(self) -> int:
        """Requests for files of ours; the client also asks for things of its own."""
        return sum("/someone/" in path for _, path, _ in self.requests)


class Repositories:
    """The hub's answers.

    Attributes:
        files: content by (repository, file name).
        sizes: what is said of a file's size, where it is not the truth.
        breaks: by file name, after how many of its bytes every connection breaks.
        stalls: by file name, after how many of its bytes nothing more comes.
        spoiled: by file name, how many more times it is sent with a wrong byte.
        commits: the versions there are, of all repositories alike, the newest last.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.sizes: dict[str, int] = {}
        self.breaks: dict[str, int] = {}
        self.stalls: dict[str, int] = {}
        self.spoiled: dict[str, int] = {}
        self.commits = [COMMIT]

    def put(self, repo: str, files: dict[str, Path | bytes]) -> None:
        """Add files to a repository."""
        for name, content in files.items():
            self.files[repo, name] = content if isinstance(content, bytes) else content.read_bytes()

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        asked = re.fullmatch(r"/(.+)/resolve/([^/]+)/([^?]+)", unquote(request.path))
        repo, revision, name = asked.groups() if asked else ("", "", "")
        if not any(repo == each for each, _ in self.files):
            answer(request, 404, X_Error_Code="RepoNotFound")
            return
        commit = self.commits[-1] if revision == "main" else revision
        if commit not in self.commits:
            answer(request, 404, X_Error_Code="RevisionNotFound")
            return
        content = self.files.get((repo, name))
        if content is None:
            answer(request, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        headers = {"ETag": f'"{etag(name, content)}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if name in self.sizes:
            headers["X_Linked_Size"] = str(self.sizes[name])
        if request.command == "HEAD":
            answer(request, 200, content, **headers)
        else:
            self._send(request, name, content, headers)

    def _send(self, request: BaseHTTPRequestHandler, name: str, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers["Range"] or "")
        start = int(wanted[1]) if wanted else 0
        if self.spoiled.get(name, 0) > 0:
            self.spoiled[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        end = min(self.breaks.get(name, len(content)), self.stalls.get(name, len(content)))
        if name in self.breaks and start >= end:
            answer(request, 503)
            return
        if wanted:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.send_response(206 if wanted else 200)
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        with contextlib.suppress(OSError):
            request.wfile.write(content[start:end])
            request.wfile.flush()
            if name in self.stalls:
                time.sleep(60)
        request.close_connection = True


def etag(name: str, content: bytes) -> str:
    """What the hub and its cache name a file by."""
    if name.endswith(_LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def answer(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """One whole answer."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command == "GET":
        with contextlib.suppress(OSError):
            request.wfile.write(body)


def lay_out(cache: Path, repo: str, files: dict[str, Path]) -> None:
    """Files as the hub's client leaves them: content by hash, names as links to it."""
    place = cache / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    for part in (snapshot, place / "blobs", place / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    for name, source in files.items():
        blob = place / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
        shutil.copy(source, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))


def model_files(folder: Path) -> dict[str, Path]:
    """Of a folder for local-dir:, what its repository would hold."""
    return {name: folder / name for name in ("open_clip_config.json", "open_clip_model.safetensors")}
