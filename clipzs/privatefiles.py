"""Folders and files that nobody but their owner may look into, whatever the umask is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def make_folder(path: Path) -> None:
    """Make a folder (0700) and what is missing above it (0700 too), unless it is there.

    Raises:
        OSError: it cannot be made.
    """
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def make_file(path: Path) -> None:
    """Make an empty file (0600), unless it is there.

    Raises:
        OSError: it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A new file (0600) to write; what was written is on the disk at the end of the `with` block.

    Raises:
        OSError: it cannot be written.
    """
    with open(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
