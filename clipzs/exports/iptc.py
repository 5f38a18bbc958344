"""Keywords in image files themselves, by the program exiftool, which keeps everything else that is in them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipzs.errors import UsageProblem
from clipzs.exports.common import AtTheEnd, Settings, show
from clipzs.exports.keywords import keywords
from clipzs.results import Result

_AT_ONCE = 32  # images in a call: their names and keywords have to fit on a command line
_FAILURE = re.compile(r"^Error: (?P<reason>.*) - (?P<path>.*)$", re.MULTILINE)
_LONGEST = 64  # bytes of a keyword; exiftool would cut it
_UTF8 = "-IPTC:CodedCharacterSet=UTF8"


@dataclass(frozen=True)
class _Present:
    """The IPTC record of an image: its keywords in small letters, whether there is one at all, and in UTF-8."""

    keywords: frozenset[str]
    any: bool
    utf8: bool

    def lacks(self, wanted: Sequence[str]) -> list[str]:
        """Those of some keywords that are not there, in whatever capitals."""
        return [keyword for keyword in wanted if keyword.casefold() not in self.keywords]


class IptcExport(AtTheEnd):
    """Adds answers to IPTC:Keywords of the images. Takes none out: nothing would say whose they are.

    Only with `yes`; else the changes are shown.

    Raises:
        UsageProblem: exiftool is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        program = shutil.which("exiftool")
        if program is None:
            raise UsageProblem(
                "IPTC keywords need the program exiftool, which is not on the PATH",
                hint="install it (libimage-exiftool-perl, exiftool.org), or write sidecars: --to xmp",
            )
        self._program = program
        self._dry = settings.dry_run or not settings.yes
        self._images: dict[str, tuple[str, ...]] = {}
        self._written = self._same = 0

    def take(self, result: Result) -> None:
        """Keep the keywords of one image."""
        path = os.path.realpath(result.path)  # a link would be replaced by a changed copy of what it leads to
        if not os.path.isfile(path):
            self.left_out.add(result.path, "no such file")
        elif path.rstrip().endswith("|"):
            self.left_out.add(result.path, "old versions of exiftool run a name with | at its end as a command")
        else:
            found = keywords(result, self.settings).flat
            long = next((keyword for keyword in found if len(keyword.encode()) > _LONGEST), None)
            if long is not None:
                self.left_out.add(result.path, f"IPTC keywords have {_LONGEST} bytes at most, not those of {long!r}")
            else:
                self._images[path] = found

    def save(self) -> None:
        """Write the keywords that are not there, image by image."""
        if not self._images:
            raise self.nothing()
        paths = [path for path, wanted in self._images.items() if wanted]
        self._same = len(self._images) - len(paths)
        for start in range(0, len(paths), _AT_ONCE):
            self._save(paths[start : start + _AT_ONCE])

    def _save(self, paths: Sequence[str]) -> None:
        found = self._present(paths)
        missing: dict[str, list[str]] = {}
        for path in paths:
            present = found.get(path)
            if isinstance(present, str) or present is None:
                self.left_out.add(path, present or "exiftool cannot read it")
            elif new := present.lacks(self._images[path]):
                missing[path] = new
            else:
                self._same += 1
        if self._dry:
            for path, new in missing.items():
                self._written += 1
                for keyword in new:
                    show(path, "+", keyword)
        elif missing:
            self._write(missing, {path: one for path, one in found.items() if isinstance(one, _Present)})

    def _write(self, missing: Mapping[str, Sequence[str]], found: Mapping[str, _Present]) -> None:
        arguments: list[str] = []
        for path, new in missing.items():
            present, ascii_only = found[path], all(keyword.isascii() for keyword in new)
            if present.any and not present.utf8 and not all(map(_is_latin, new)):
                # By a copy of itself the record is put into UTF-8; only then there are letters for the keywords.
                arguments += ["-tagsfromfile", "@", "-IPTC:all", _UTF8, path, "-execute"]
            elif not present.any and not ascii_only:
                arguments.append(_UTF8)
            arguments += [*(f"-IPTC:Keywords+={keyword}" for keyword in new), path, "-execute"]
        keep = [] if self.settings.backup else ["-overwrite_original"]
        done = self._run([*arguments[:-1], "-common_args", "-q", *keep])
        reasons = {match["path"]: match["reason"] for match in _FAILURE.finditer(done.stderr)}
        after = self._present([*missing])
        for path, new in missing.items():
            now = after.get(path)
            if isinstance(now, _Present) and not now.lacks(new):
                self._written += 1
            else:
                self.left_out.add(path, reasons.get(path, "exiftool cannot write IPTC keywords into such a file"))

    def _present(self, paths: Sequence[str]) -> dict[str, _Present | str]:
        """What there is in each file; why it could not be read; nothing of those that exiftool says nothing of."""
        entries = self._entries(paths)
        if len(entries) != len(paths):  # which one is missing is found one by one: names may be printed otherwise
            each = ((path, self._entries([path])) for path in paths)
            return {path: _present(entry[0]) for path, entry in each if entry}
        return {path: _present(entry) for path, entry in zip(paths, entries, strict=True)}

    def _entries(self, paths: Sequence[str]) -> list[dict[str, object]]:
        done = self._run(["-q", "-j", "-IPTC:all", "-Error", *paths])
        # Numbers as they are written: "1.0" is a keyword like any other.
        entries: list[dict[str, object]] = json.loads(done.stdout or "[]", parse_float=str, parse_int=str)
        return entries

    def _run(self, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603  # no shell; the program is the user's, and paths are absolute
            [self._program, "-config", "", *arguments],  # without the user's own tags and conversions
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def summary(self) -> str:
        """What was done, in words."""
        done = "would be changed" if self._dry else "changed"
        return f"{self._written:,} images {done}, {self._same:,} need no change"


def _present(entry: Mapping[str, object]) -> _Present | str:
    if "Error" in entry:
        return f"exiftool: {entry['Error']}"
    listed = entry.get("Keywords", [])
    words = listed if isinstance(listed, list) else [listed]
    iptc = set(entry) - {"SourceFile"}
    utf8 = entry.get("CodedCharacterSet") == "UTF8"
    return _Present(frozenset(str(word).casefold() for word in words), bool(iptc), utf8)


def _is_latin(keyword: str) -> bool:
    """Whether it can be said in what IPTC is in that says nothing of it."""
    try:
        keyword.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True
