"""Text files that a person wrote, read as UTF-8."""

from pathlib import Path

from clipzs.errors import ClipzsError


def read_text(path: Path, problem: type[ClipzsError]) -> str:
    """The text of a file, a byte order mark left out, line ends as they are.

    Raises:
        problem: with file, and line where there is one: unreadable, or not UTF-8.
    """
    try:
        return decoded(path.read_bytes(), str(path), problem)
    except OSError as error:
        raise problem(f"{path}: cannot be read: {error.strerror}") from error


def decoded(content: bytes, name: str, problem: type[ClipzsError]) -> str:
    """The text of a file or pipe of that name; as `read_text`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise problem(f"{name}:{line}: not UTF-8 text", hint="save it as UTF-8") from error
