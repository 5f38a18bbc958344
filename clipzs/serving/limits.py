"""What one request may ask for, and what all of them together may hold."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Limits of the service; each has the default of the command line.

    Attributes:
        body_bytes: of a request that is no stream.
        image_bytes: of one encoded image.
        images: of a request that is no stream.
        labels: of a request.
        prompts: of a request: labels and aliases times templates.
        characters: of each text: a label, an alias, a prompt, a name.
        seconds: that a request may take which is no stream, from its first byte to its answer.
        idle_seconds: without a byte from a client that is to send, or to a client that is to read.
        waiting_images: that were taken in and have no answer yet; streams may have half of them.
        waiting_bytes: of requests that are held in memory, all together.
        connections: at the same time.
        grace_seconds: that what was accepted may take when the service is stopped.
    """

    body_bytes: int = 64_000_000
    image_bytes: int = 32_000_000
    images: int = 100
    labels: int = 1_000
    prompts: int = 20_000
    characters: int = 1_000
    seconds: float = 60.0
    idle_seconds: float = 60.0
    waiting_images: int = 256
    waiting_bytes: int = 512_000_000
    connections: int = 256
    grace_seconds: int = 30

    def as_json(self) -> dict[str, Any]:
        """All of them by name."""
        return asdict(self)
