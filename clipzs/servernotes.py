"""Notes that running servers leave for other commands of the same user: where they are, and their token.

What anybody else may read or write is no note. Nothing heavy is imported here.
"""

import json
import os
import platform
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from clipzs import __version__
from clipzs.privatefiles import durable, make_folder

FOLDER = "servers"  # in the cache folder
_LARGEST = 10_000  # bytes


@dataclass(frozen=True)
class Note:
    """A server that runs on this machine, for this user.

    Attributes:
        url: `http://HOST:PORT`, or `unix:PATH` of a socket.
        token: what it asks for, if it does.
        pid: its process.
        host: the machine.
        version: of its clipzs.
    """

    url: str
    token: str | None = field(repr=False)
    pid: int
    host: str
    version: str


def folder(cache_dir: Path) -> Path:
    """Where notes are, in a cache folder."""
    return cache_dir / FOLDER


def leave(notes: Path, url: str, token: str | None = None) -> Path:
    """Say where this process listens; the file, to be deleted when it does so no more.

    Raises:
        OSError: it cannot be written.
    """
    make_folder(notes)
    notes.chmod(0o700)
    path = notes / f"{os.getpid()}.json"
    new = path.with_suffix(".new")
    said = {"url": url, "token": token, "pid": os.getpid(), "host": platform.node(), "clipzs": __version__}
    with durable(new) as file:
        file.write(json.dumps(said).encode())
    new.replace(path)
    return path


def running(notes: Path) -> list[Note]:
    """Those of servers that seem to be running on this machine; the notes of dead ones are deleted."""
    found = []
    for path in sorted(notes.glob("*.json")):
        note = _read(path)
        if note is None or note.host != platform.node():  # a home folder may be on several machines
            continue
        if _alive(note.pid):
            found.append(note)
        else:
            with suppress(OSError):
                path.unlink()
    return found


def _read(path: Path) -> Note | None:
    """None for what is no note."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if _is_private(path) and _is_private(path.parent) and path.stat().st_size <= _LARGEST:
            said = json.loads(path.read_bytes())
            token = None if said["token"] is None else str(said["token"])
            return Note(str(said["url"]), token, int(said["pid"]), str(said["host"]), str(said["clipzs"]))
    return None


def _is_private(path: Path) -> bool:
    """Whether nobody but this user can have written it. Windows keeps the folders of users apart by itself."""
    if sys.platform == "win32":
        return True
    found = path.lstat()
    return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _alive(pid: int) -> bool:
    """Whether this user has such a process. On Windows, to ask would end it; there, the server itself is asked."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return pid > 0
