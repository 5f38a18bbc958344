"""Files that are elsewhere: web servers through the standard library, object stores through fsspec."""

import http.client
import io
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, BinaryIO, cast

from clipzs import __version__
from clipzs.errors import ImageError, SourceError, UsageProblem

LARGEST = 512_000_000  # bytes of an image file that is fetched
TOO_LARGE = f"larger than {LARGEST / 1e6:.0f} MB"
ATTEMPTS = 3
_PAUSE_S = 1.0  # before the second attempt; twice as long before the third
_SILENT_S = 20.0  # without a byte of an image, after which no more will come
_BLOCK = 1 << 20
_BROKEN_OFF = (ConnectionError, http.client.HTTPException)  # what may be better the next time
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # as well, of what servers say


def is_url(name: str) -> bool:
    """Whether a name is a URL: of letters and digits, then `://`."""
    scheme, mark, _ = name.partition("://")
    return bool(mark) and scheme.replace("+", "").replace("-", "").isalnum() and scheme[:1].isalpha()


def is_web(url: str) -> bool:
    """Whether it is on a web server, which lists nothing."""
    return _scheme(url) in ("http", "https")


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def check(url: str) -> None:
    """See that there is a way to such places.

    Raises:
        UsageProblem: as of `filesystem`.
    """
    if not is_web(url):
        filesystem(url)


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's filesystem of a URL, and the path in it.

    Raises:
        UsageProblem: fsspec, or the package that knows such URLs, is missing; or there is no such kind.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UsageProblem(f"{url}: such places need fsspec", hint="pip install 'clipzs[remote]'") from error
    try:
        found, path = url_to_fs(url)
    except ImportError as error:
        from fsspec.registry import known_implementations

        said = known_implementations.get(_scheme(url), {}).get("err", str(error))
        raise UsageProblem(f"{url}: a package is missing: {said}") from error
    except ValueError as error:
        raise UsageProblem(f"{url}: {_scheme(url)}:// is no kind of place that fsspec knows") from error
    return found, str(path)


def fetch(url: str, timeout: float) -> bytes:
    """An image file.

    Args:
        url: of it.
        timeout: seconds that each attempt may take, of web servers; 0 is without end. Object stores have their own.

    Raises:
        ImageError: it is not there or too large, the server does not answer, or breaks off `ATTEMPTS` times.
        UsageProblem: as of `filesystem`.
    """
    if is_web(url):
        return _from_web(url, timeout)
    files, path = filesystem(url)
    try:
        data = bytes(files.cat_file(path, start=0, end=LARGEST + 1))
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except Exception as error:  # each kind of place has its own
        raise ImageError(f"cannot be fetched: {words(error)}") from error
    if len(data) > LARGEST:
        raise ImageError(TOO_LARGE)
    return data


def open_stream(url: str, timeout: float) -> BinaryIO:
    """A file from its start to its end, of which no more is held than is asked for.

    Args:
        url: of it.
        timeout: seconds in which some of it must arrive, of web servers. Object stores have their own.

    Raises:
        SourceError: it cannot be opened or, when it is read, read to its end.
        UsageProblem: as of `filesystem`.
    """
    if not is_web(url):
        return open_anywhere(url)
    try:
        return watched(url, _answer(url, timeout))
    except urllib.error.HTTPError as error:
        raise SourceError(f"{url}: {_refusal(error)}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SourceError(f"{url}: cannot be opened: {words(error)}") from error


def open_anywhere(url: str) -> BinaryIO:
    """A file that is read at any place.

    Raises:
        SourceError: it cannot be opened or, when it is read, be read.
        UsageProblem: as of `filesystem`.
    """
    files, path = filesystem(url)
    try:
        return watched(url, files.open(path, "rb"))
    except Exception as error:  # each kind of place has its own
        raise SourceError(f"{url}: cannot be opened: {words(error)}") from error


def watched(name: str, source: Any) -> BinaryIO:
    """A file or connection whose failures are a `SourceError`: nobody shall take them for damage of what is in it."""
    return cast(BinaryIO, io.BufferedReader(_Watched(name, source), _BLOCK))


def glob(url: str) -> list[str]:
    """The URLs that a pattern means, sorted.

    Raises:
        SourceError: the place cannot be looked into.
        UsageProblem: as of `filesystem`.
    """
    files, path = filesystem(url)
    try:
        return sorted(files.unstrip_protocol(one) for one in files.glob(path))
    except Exception as error:
        raise SourceError(f"{url}: cannot be looked into: {words(error)}") from error


def words(error: BaseException) -> str:
    """What an exception of others says, on one line."""
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(text).split())[:200] or type(error).__name__


class _Watched(io.RawIOBase):
    def __init__(self, name: str, source: Any) -> None:
        self._name, self._source = name, source

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._source.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._source.seek(offset, whence))

    def tell(self) -> int:
        return int(self._source.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._source.read(len(buffer))
        except Exception as error:
            raise SourceError(f"{self._name}: cannot be read to its end: {words(error)}") from error
        if not block and (getattr(self._source, "length", None) or 0) > 0:  # of http.client: what is missing
            raise SourceError(f"{self._name}: the connection ended before the file did")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _answer(url: str, timeout: float) -> http.client.HTTPResponse:
    """What a web server answers; other protocols are none that it could send on to."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    plain = urllib.parse.quote(url, safe=string.punctuation, errors="surrogateescape")  # blanks, and what is not ASCII
    request = urllib.request.Request(plain, headers={"User-Agent": f"clipzs/{__version__}"})  # noqa: S310
    return cast(http.client.HTTPResponse, opener.open(request, timeout=timeout))


def _refusal(error: urllib.error.HTTPError) -> str:
    error.close()
    return f"the server says {error.code} {words(error)}"


def _from_web(url: str, timeout: float) -> bytes:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _whole(url, timeout)
        except urllib.error.HTTPError as error:
            problem, final = _refusal(error), error.code not in _AGAIN
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)  # of a URLError, what it is about
            problem, final = f"cannot be fetched: {words(error)}", not isinstance(cause, _BROKEN_OFF)
        if final or attempt == ATTEMPTS:
            raise ImageError(problem)
        time.sleep(_PAUSE_S * attempt)
    raise AssertionError("unreachable")


def _whole(url: str, timeout: float) -> bytes:
    end = time.monotonic() + (timeout or float("inf"))
    content = bytearray()
    with _answer(url, min(timeout or _SILENT_S, _SILENT_S)) as answer:
        while block := answer.read1(_BLOCK):
            content += block
            if len(content) > LARGEST:
                raise ImageError(TOO_LARGE)
            if time.monotonic() > end:
                raise TimeoutError(f"more than {timeout:g} s")
        if answer.length:
            raise ConnectionError("the connection ended before the file did")
    return bytes(content)
