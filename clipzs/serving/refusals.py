"""Why a request gets no answer: a status code, one line, and a hint."""

import json
import logging
from collections.abc import Mapping

from clipzs.errors import ClipzsError, UsageProblem

log = logging.getLogger("clipzs")

MALFORMED, NO_TOKEN, FORBIDDEN, UNKNOWN, TOO_SLOW, TOO_LARGE, OTHER_TYPE = 400, 401, 403, 404, 408, 413, 415
REFUSED, TOO_MANY, FAILED, STOPPING = 422, 429, 500, 503


class Refusal(Exception):
    """A request that is not answered as it was asked.

    Attributes:
        status: the HTTP status code.
        hint: the next thing to try.
        headers: that the answer has besides the usual ones.
    """

    def __init__(
        self, status: int, message: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint
        self.headers = dict(headers or {})

    def as_json(self) -> dict[str, str | None]:
        """`{"error", "hint"}`."""
        return {"error": str(self), "hint": self.hint}

    def line(self) -> bytes:
        """As the last line of a stream that ends before its time."""
        return json.dumps(self.as_json(), ensure_ascii=False).encode() + b"\n"


def busy(what: str) -> Refusal:
    """The service has as much to do as it takes on."""
    return Refusal(TOO_MANY, f"too much is waiting: {what}", hint="try again later", headers={"Retry-After": "1"})


def stopping() -> Refusal:
    """The service takes on nothing more."""
    return Refusal(STOPPING, "the server is stopping", hint="ask the one that takes its place")


def of(error: Exception) -> Refusal:
    """What a failure means to the one who asked. One that is not theirs is logged."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UsageProblem):
        return Refusal(REFUSED, str(error), hint=error.hint)
    if isinstance(error, ClipzsError):
        log.warning("%s", error)
        return Refusal(FAILED, str(error), hint=error.hint)
    if isinstance(error, MemoryError):
        return Refusal(STOPPING, "not enough memory", hint="try again later, or ask for less at once")
    log.error("internal error: %s: %s", type(error).__name__, " ".join(str(error).split()))
    log.debug("internal error", exc_info=error)
    return Refusal(FAILED, "internal error", hint="it is a bug; the server's own messages say more")
