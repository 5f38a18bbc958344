"""One picture into another folder, and back: copied, moved or linked, without ever replacing or losing anything.

Each step can be the last one: whatever ends the process, `settle` finds out from what lies on the disk how far it came.
"""

import errno
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Literal

from clipzs.output import sync_folder

How = Literal["copy", "move", "link", "symlink"]
Stamp = tuple[int, int]  # size in bytes, time of modification in nanoseconds

_BLOCK = 1 << 20
_NO_LINKS = {
    errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES, errno.EXDEV
}  # fmt: skip
# What a file system says of one name or one file, and not of all that would come after it.
_OF_ONE_FILE = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EFBIG, errno.EPERM, errno.EMLINK, errno.EXDEV}


class Stays(Exception):
    """Why one picture stays where it is; the others go on. `forever`: trying again would not change that."""

    def __init__(self, reason: str, *, forever: bool = False) -> None:
        super().__init__(reason)
        self.forever = forever


@dataclass(frozen=True)
class Job:
    """A picture and where it goes.

    Attributes:
        how: what is done with it.
        source: its absolute path; for all but a link that is moved, symbolic links are followed to the picture.
        target: the absolute path that it gets.
        part: a name in the target's folder that nothing else has, for what is not yet complete.
        seen: the picture's stamp when this was planned.
        link: what a symbolic link that is moved says; None for all else.
    """

    how: How
    source: str
    target: str
    part: str
    seen: Stamp = (0, 0)
    link: str | None = None

    @property
    def says(self) -> str:
        """What the symbolic link at the target says, where one is made; it leads where the source led."""
        if self.link is None:
            return self.source
        return os.path.join(os.path.dirname(self.source), self.link)


def examine(source: str, how: How) -> tuple[Stamp, str | None]:
    """`Job.seen` and `Job.link` of a path.

    Raises:
        Stays: it is missing, or no ordinary file.
    """
    try:
        if how == "move" and os.path.islink(source):
            return (0, 0), os.readlink(source)
        status = os.stat(source)
    except (OSError, ValueError) as error:
        raise Stays(_reason(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise Stays("not an ordinary file: left where it is")
    return _stamp(status), None


def place(job: Job) -> bool:
    """Put the picture at its target, whole and on the disk. A move still leaves the source: see `leave`.

    Returns:
        whether the source is gone already.

    Raises:
        Stays: this picture cannot go there.
        FileExistsError: the target is taken; nothing was changed.
        OSError: the target's file system takes no more.
    """
    try:
        if job.how == "symlink" or job.link is not None:
            os.symlink(job.says, job.target)
        elif job.how == "link":
            os.link(os.path.realpath(job.source), job.target)
        elif job.how == "copy" or not (moved := _moved(job)):
            _copy(job, thorough=job.how == "move")
            _publish(job.part, job.target)
        else:
            return moved == "gone"
    except FileExistsError:
        raise
    except OSError as error:
        if not os.path.lexists(job.source):
            raise Stays("no such file") from error
        if error.errno == errno.EXDEV:
            raise Stays("on another file system, where no hard link leads") from error
        if error.errno in _OF_ONE_FILE:
            raise Stays(f"{job.target}: {_reason(error)}") from error
        raise
    return False


def _moved(job: Job) -> Literal["", "linked", "gone"]:
    """Within one file system, without copying; "" where that cannot be done."""
    if examine(job.source, "move") != (job.seen, None):
        raise Stays("changed meanwhile: left where it is")
    try:
        os.link(job.source, job.target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.EXDEV or error.errno not in _NO_LINKS:
            return ""
        if os.stat(job.source).st_dev != os.stat(os.path.dirname(job.target)).st_dev:
            return ""
        _claim(job.target)  # no hard links here: an empty file of our own is what the move replaces
        try:
            os.replace(job.source, job.target)
        except OSError as problem:
            os.unlink(job.target)
            raise Stays(f"cannot be moved: {_reason(problem)}") from problem
        return "gone"
    return "linked"


def _copy(job: Job, *, thorough: bool) -> None:
    """A copy under its temporary name, with times and permissions; with `thorough`, read again and compared."""
    try:
        source = open(job.source, "rb")  # noqa: SIM115
    except OSError as error:
        raise Stays(_reason(error)) from error
    try:
        with source:
            if _stamp(os.fstat(source.fileno())) != job.seen:
                raise Stays("changed meanwhile: left where it is")
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
            with open(os.open(job.part, flags, 0o600), "wb", buffering=0) as part:
                digest = blake2b()
                while block := _read(source):
                    digest.update(block)
                    left = memoryview(block)
                    while left:
                        left = left[part.write(left) or 0 :]
                with suppress(OSError):  # some file systems keep no permissions
                    shutil.copystat(job.source, job.part)
                os.fsync(part.fileno())
            if _stamp(os.fstat(source.fileno())) != job.seen:
                raise Stays("changed while it was copied: left where it is")
        if os.stat(job.part).st_size != job.seen[0] or (thorough and _digest(job.part) != digest.digest()):
            raise OSError(errno.EIO, "the copy is not what was written")
    except BaseException:
        with suppress(OSError):
            os.unlink(job.part)
        raise


def _read(file: BinaryIO) -> bytes:
    try:
        return file.read(_BLOCK)
    except OSError as error:
        raise Stays(_reason(error)) from error


def _digest(path: str) -> bytes:
    digest = blake2b()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()


def _publish(part: str, target: str) -> None:
    """Give a complete file its name, unless another has it."""
    try:
        try:
            os.link(part, target)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _claim(target)
            os.replace(part, target)
        else:
            os.unlink(part)
    except OSError:
        with suppress(OSError):
            os.unlink(part)
        raise


def _claim(target: str) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def leave(job: Job) -> None:
    """Take the source of a move away, now that its target is on the disk.

    Raises:
        Stays: that cannot be done; the target is taken away instead.
    """
    try:
        if job.link is not None:
            same = os.readlink(job.source) == job.link
        else:
            same = is_one(job.source, job.target) or _stamp(os.lstat(job.source)) == job.seen
        if same:
            os.unlink(job.source)
            return
        reason = "changed meanwhile: left where it is"
    except FileNotFoundError:  # another has taken it away; what was in it is at the target
        return
    except OSError as error:
        reason = f"cannot be moved: {_reason(error)}"
    with suppress(OSError):
        os.unlink(job.target)
    raise Stays(reason)


def settle(job: Job) -> bool:
    """After the process that had this under way was ended: finish what is nearly done, take back what is not.

    Returns:
        whether the picture is at its target.

    Raises:
        OSError: neither can be done.
    """
    _discard(job.part)
    if job.how == "symlink" or job.link is not None:
        there = os.path.islink(job.target) and os.readlink(job.target) == job.says
        if there and job.link is not None and os.path.islink(job.source) and os.readlink(job.source) == job.link:
            os.unlink(job.source)
        return there
    if not _is_file(job.target):
        return False
    if not os.path.lexists(job.source):
        return job.how == "move" and _stamp(os.lstat(job.target)) == job.seen
    one = is_one(job.source, job.target)
    if job.how == "link":
        return one
    if job.how == "copy" and not one and _is_same(job.source, job.target):
        return True
    if job.how == "move" and not os.path.islink(job.source) and (one or _is_same(job.source, job.target)):
        os.unlink(job.source)
        return True
    _unclaim(job.target, job.seen)
    return False


def _discard(part: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(part)


def _unclaim(path: str, seen: Stamp) -> None:
    """Give up a name that was claimed for a file that had some bytes, and that did not come."""
    if seen[0] and _is_file(path) and not os.lstat(path).st_size:
        os.unlink(path)


def _is_same(one: str, other: str) -> bool:
    """Whether two files have the same size, time of modification and bytes."""
    try:
        return _stamp(os.stat(one)) == _stamp(os.stat(other)) and is_alike(one, other)
    except OSError:
        return False


def is_alike(one: str, other: str) -> bool:
    """Whether two ordinary files hold the same; False if one cannot be read."""
    try:
        if not _is_file(other) or os.stat(one).st_size != os.stat(other).st_size:
            return False
        with open(one, "rb") as first, open(other, "rb") as second:
            while block := first.read(_BLOCK):
                if block != second.read(_BLOCK):
                    return False
        return True
    except OSError:
        return False


def take_back(job: Job, modified: int, part: str, *, begun: bool = False, dry_run: bool = False) -> None:
    """Undo it: a copy or link goes if it is what was made and its original is there, a picture that was moved returns.

    What an undo that was ended had begun is finished.

    Args:
        job: that was done.
        modified: the target's time of modification then, in nanoseconds.
        part: a name in the source's folder that nothing else has.
        begun: whether a process that was ended may have been at this.
        dry_run: only see whether it can be done.

    Raises:
        Stays: it is left as it is.
        OSError: the source's file system takes no more.
    """
    if job.how == "move":
        _return(job, part, begun=begun, dry_run=dry_run)
    elif os.path.lexists(job.target):
        _check_spare(job, modified)
        try:
            if not dry_run:
                os.unlink(job.target)
        except OSError as error:
            raise Stays(f"cannot be removed: {_reason(error)}") from error


def _check_spare(job: Job, modified: int) -> None:
    """See that a copy or link is what was made, and that nothing is lost with it."""
    if job.how == "symlink":
        _check_says(job)
        return
    if not _is_file(job.target):
        raise Stays("something else is there now", forever=True)
    original = _stamp_of(job.source)
    if job.how == "link":
        if os.lstat(job.target).st_nlink < 2:
            raise Stays("its original is gone: this is the only one left", forever=True)
        if not is_one(job.source, job.target):
            raise Stays("its original is gone, or another file", forever=True)
    elif _stamp(os.lstat(job.target)) != (job.seen[0], modified):
        raise Stays("changed since", forever=True)
    elif original is None or is_one(job.source, job.target):
        raise Stays("its original is gone: this is the only one left", forever=True)
    elif original != job.seen:
        raise Stays("its original has changed since: this is the only one left as it was", forever=True)


def _check_says(job: Job) -> None:
    if not os.path.islink(job.target) or os.readlink(job.target) != job.says:
        raise Stays("another link or file is there now", forever=True)


def _return(job: Job, part: str, *, begun: bool, dry_run: bool) -> None:
    if begun and not dry_run:
        _discard(part)
        if os.path.lexists(job.target):
            _unclaim(job.source, job.seen)
    if not os.path.lexists(job.target):
        if not os.path.lexists(job.source):
            raise Stays("gone", forever=True)
        return
    if job.link is not None:
        _check_says(job)
    elif not _is_file(job.target):
        raise Stays("something else is there now", forever=True)
    taken = Stays(f"another file is at {job.source}")
    if os.path.lexists(job.source) and not _is_returned(job):
        raise taken
    if dry_run:
        return
    if os.path.lexists(job.source):
        os.unlink(job.target)
        return
    try:
        os.makedirs(os.path.dirname(job.source), exist_ok=True)
        if job.link is not None:
            os.symlink(job.link, job.source)
            os.unlink(job.target)
            return
        back = Job("move", job.target, job.source, part, _stamp(os.lstat(job.target)))
        if not place(back):
            if os.lstat(job.source).st_dev != os.lstat(job.target).st_dev:
                sync_folder(Path(job.source).parent)
            leave(back)
    except FileExistsError:
        raise taken from None


def _is_returned(job: Job) -> bool:
    """Whether what is at the source is what is at the target: an undo was ended between two steps."""
    if job.link is not None:
        return os.path.islink(job.source) and os.readlink(job.source) == job.link
    return _is_file(job.source) and (is_one(job.source, job.target) or _is_same(job.source, job.target))


def modified(path: str) -> int:
    """When what is there was last changed, in nanoseconds; of a symbolic link, the link itself. 0 if nothing is."""
    with suppress(OSError):
        return os.lstat(path).st_mtime_ns
    return 0


def _stamp_of(path: str) -> Stamp | None:
    """Of an ordinary file; None for all else."""
    with suppress(OSError, ValueError):
        status = os.stat(path)
        return _stamp(status) if stat.S_ISREG(status.st_mode) else None
    return None


def is_one(one: str, other: str) -> bool:
    """Whether two names lead to one file."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (getattr(error, "strerror", None) or str(error)).lower()
