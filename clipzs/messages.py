"""What two processes say to each other through pipes: a line of JSON, and bytes if it says so. Data, never code."""

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

Message = Mapping[str, Any]


def send(stream: BinaryIO, message: Message, payload: bytes = b"") -> None:
    """Put a message through, and what belongs to it.

    Raises:
        OSError: nobody is there to read it.
    """
    stream.write(json.dumps({**message, "bytes": len(payload)}).encode("ascii") + b"\n")
    stream.write(payload)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Wait for a message and what belongs to it.

    Raises:
        EOFError: the other side is gone.
        ValueError: it is out of its mind.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("no message")
    size = message.get("bytes", 0)
    payload = stream.read(size)
    if len(payload) < size:
        raise EOFError
    return message, payload


def working_folder() -> str:
    """Of this process, as the other is told; "" for one that was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""
