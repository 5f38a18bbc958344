"""Archives of images: tar, also packed, read as a stream from the first member to the last that is whole."""

import bz2
import gzip
import lzma
import os
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Self, cast

from clipzs.batch import fetching
from clipzs.errors import ClipzsError, SourceError
from clipzs.images import Blob
from clipzs.paths import IMAGE_SUFFIXES, SKIPPED_FOLDERS, Found

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LARGEST_HEADER = 1 << 20  # bytes of a name, or of what else is said of a member
_SAYS_MORE = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_TIMEOUT_S = 60.0  # without a byte of an archive from a web server


def images(name: str) -> Iterator[Blob | Found]:
    """The images of an archive, in its order; what is damaged costs what is behind it, and is an error of its own.

    Args:
        name: a path or a URL.

    Raises:
        SourceError: it cannot be reached, or read to its end.
    """
    with _opened(name) as stream:
        last = ""
        try:
            with tarfile.open(fileobj=_unpacked(stream), mode="r|", tarinfo=_Member) as archive:
                while member := archive.next():
                    if _is_image(member):
                        yield _image(archive, member, f"{name}/{member.name}")
                    last = member.name
                    archive.members = []  # type: ignore[attr-defined]  # of which it would hold all
        except (ClipzsError, MemoryError):
            raise
        except Exception as error:  # damage can raise anything
            where = f"all behind {last}" if last else "nothing could be read, and all"
            yield Found(name, f"a damaged archive: {where} is lost: {fetching.words(error)}")


def _unpacked(stream: BinaryIO) -> BinaryIO:
    """What was packed, by what it starts with; these classes also read several packed files behind one another."""
    start = stream.peek(6)[:6]  # type: ignore[attr-defined]
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(stream))
    return cast(BinaryIO, lzma.LZMAFile(stream)) if start == b"\xfd7zXZ\0" else stream


class _Member(tarfile.TarInfo):
    """A member; what tarfile takes for the end of an archive though it is damage, is said to be that."""

    @classmethod
    def frombuf(cls, buf: "bytes | bytearray", encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # two blocks of zeros: the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("cut short" if len(buf) < tarfile.BLOCKSIZE else str(error)) from error
        if member.type in _SAYS_MORE and member.size > _LARGEST_HEADER:
            raise tarfile.ReadError("a header of a member is too large")
        return member


def _opened(name: str) -> BinaryIO:
    if fetching.is_url(name):
        return fetching.open_stream(name, _TIMEOUT_S)
    try:
        return fetching.watched(name, open(name, "rb", buffering=0))
    except OSError as error:
        raise SourceError(f"{name}: cannot be opened: {error.strerror}") from error


def _is_image(member: tarfile.TarInfo) -> bool:
    *folders, name = member.name.split("/")
    hidden = name.startswith(".") or any(folder.lower() in SKIPPED_FOLDERS for folder in folders)
    return member.isreg() and not hidden and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _image(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Blob | Found:
    if member.size > fetching.LARGEST:
        return Found(name, fetching.TOO_LARGE)
    file: Any = archive.extractfile(member)
    data = cast(bytes, file.read())
    return Blob(name, data) if data else Found(name, "an empty file")
