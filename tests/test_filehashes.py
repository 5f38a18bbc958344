"""What is remembered of a file, and when it must be read again."""

import contextlib
import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from clipzs import filehashes
from clipzs.filehashes import FileHashes, stamp


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def hashes(tmp_path, monkeypatch) -> FileHashes:
    """For files written just now, which are trusted only after a while otherwise."""
    monkeypatch.setattr(filehashes, "_SETTLED_NS", 0)
    return FileHashes(tmp_path / "cache")


def remember(hashes: FileHashes, path: "Path | str", content: bytes = b"content") -> bytes:
    digest = hashlib.sha256(content).digest()
    with open(path, "rb") as file:
        hashes.remember([(os.fspath(path), stamp(file), digest)])
    return digest


def read_by(hashes: FileHashes, path: Path, monkeypatch) -> bool:
    """Whether asking for its hash reads it."""
    calls = []
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: calls.append(file) or hashlib.sha256(file.read()))
    assert hashes.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    return bool(calls)


def test_an_unchanged_file_is_read_once(hashes, photo, monkeypatch):
    assert [read_by(hashes, photo, monkeypatch) for _ in range(3)] == [True, False, False]


def test_many_are_known_at_once_and_in_order(hashes, tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(700)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    known = {number: remember(hashes, paths[number], b"%d" % number) for number in range(0, 700, 3)}
    assert hashes.known([str(path) for path in paths]) == [known.get(number) for number in range(700)]


def _longer(path: Path) -> None:
    path.write_bytes(b"content, and more")


def _same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _another_in_its_place(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"CONTENT")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def _linked_to_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"CONTENT")
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize(
    "change", [_longer, _same_size_and_time, _another_in_its_place, _linked_to_another, Path.touch]
)
def test_a_file_that_may_have_changed_is_read_again(hashes, photo, monkeypatch, change):
    hashes.sha256(photo)
    time.sleep(0.02)  # longer than a tick of the file system's clock
    change(photo)
    assert read_by(hashes, photo, monkeypatch)


def test_a_file_changed_just_now_is_not_trusted_to_be_unchanged(tmp_path, photo, monkeypatch):
    hashes = FileHashes(tmp_path / "cache")
    assert [read_by(hashes, photo, monkeypatch) for _ in range(2)] == [True, True]
    with open(photo, "rb") as file:
        assert stamp(file) is None
    old = time.time_ns() - 10**10
    os.utime(photo, ns=(old, old))  # the time of modification is old, that of the change is not
    with open(photo, "rb") as file:
        assert stamp(file) is None


def test_a_file_that_has_settled_is_trusted(tmp_path, monkeypatch, cat):
    hashes = FileHashes(tmp_path / "cache")
    assert [read_by(hashes, cat, monkeypatch) for _ in range(2)] == [True, False]


def test_names_that_are_no_text_and_relative_ones_are_known(hashes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [os.fsdecode(b"\xff\xfe \n.jpg"), "ünï.jpg", "./a//b/../c.jpg"]
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in names:
        Path(name).write_bytes(b"content")
    digest = remember(hashes, names[0])
    assert [remember(hashes, name) for name in names[1:]] == [digest] * 2
    assert hashes.known(names) == [digest] * 3
    assert hashes.known([str(tmp_path / "a" / "c.jpg")]) == [digest]
    monkeypatch.chdir("/")
    assert hashes.known(names) == [None] * 3


def test_what_is_no_ordinary_file_is_not_remembered(hashes, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert hashes.known([str(tmp_path), str(tmp_path / "pipe"), str(tmp_path / "none"), "a\0b", "\ud800"]) == [None] * 5
    with open("/dev/null", "rb") as device:
        assert stamp(device) is None


def test_a_file_that_cannot_be_read_is_an_error(hashes, tmp_path):
    with pytest.raises(FileNotFoundError):
        hashes.sha256(tmp_path / "none")


def test_without_a_folder_nothing_is_kept(photo, monkeypatch):
    assert [read_by(FileHashes(None), photo, monkeypatch) for _ in range(2)] == [True, True]


@pytest.mark.parametrize(
    "fault",
    [
        "UPDATE file SET sha256 = zeroblob(32)",
        "UPDATE file SET stamp = stamp || x'30'",
        "UPDATE file SET sha256 = 'text'",
        "UPDATE file SET sha256 = (SELECT sha256 FROM file WHERE rowid = 1)",
        "DROP TABLE file",
        "PRAGMA user_version = 99",
    ],
)
def test_a_damaged_file_of_hashes_gives_no_wrong_one(hashes, tmp_path, photo, fault):
    other = tmp_path / "photo2.jpg"
    other.write_bytes(b"other")
    remember(hashes, photo)
    remember(hashes, other, b"other")
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / "files.sqlite")) as connection:
        connection.execute(fault)
        connection.commit()
    for path in (photo, other):
        assert hashes.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
