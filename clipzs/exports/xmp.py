"""Keywords in XMP sidecars. What others wrote there stays; of the keywords, only our own are ever taken out."""

import os
from pathlib import Path

from clipzs.errors import UsageProblem
from clipzs.exports.common import AtTheEnd, Settings, is_everywhere, show
from clipzs.exports.keywords import Keywords, keywords
from clipzs.exports.sidecar import Sidecar, SidecarError
from clipzs.output import problem, write_whole
from clipzs.results import Result

_LARGEST = 64_000_000  # bytes; those of darktable with many masks reach a few millions


class XmpExport(AtTheEnd):
    """A sidecar an image, made or merged: answers in dc:subject and, in groups, in lr:hierarchicalSubject.

    Where several images share a sidecar (photo.jpg and photo.raw, named the Adobe way), it has the keywords of all.
    A sidecar that says already what it should is not touched; none is made for an image without an answer.

    Raises:
        UsageProblem: lxml is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        try:
            import lxml  # noqa: F401
        except ImportError as error:
            raise UsageProblem("XMP sidecars need lxml", hint="pip install 'clipzs[xmp]'") from error
        self._sidecars: dict[str, dict[str, Keywords]] = {}  # keywords by image by sidecar
        self._written = self._same = 0

    def take(self, result: Result) -> None:
        """Keep the keywords of one image."""
        if not os.path.isfile(result.path):
            self.left_out.add(result.path, "no such file")
            return
        stem = os.path.splitext(result.path)[0] if self.settings.sidecar_name == "adobe" else result.path
        self._sidecars.setdefault(f"{stem}.xmp", {})[result.path] = keywords(result, self.settings)

    def save(self) -> None:
        """Write the sidecars, each in one step."""
        if not self._sidecars:
            raise self.nothing()
        for path, images in self._sidecars.items():
            try:
                self._save(path, sum(images.values(), Keywords()))
            except SidecarError as error:
                self.left_out.add(path, f"left alone: {error}")
            except OSError as error:
                if is_everywhere(error):
                    raise problem(Path(path), error) from error
                self.left_out.add(path, f"cannot be written: {error.strerror}")

    def _save(self, path: str, wanted: Keywords) -> None:
        sidecar = Sidecar(_content(path))
        changes = sidecar.update(wanted)
        if not changes:
            self._same += 1
            return
        self._written += 1
        if not self.settings.dry_run:
            write_whole(Path(path), sidecar.serialised())
            return
        for sign, keyword in changes:
            show(path, sign, keyword)

    def summary(self) -> str:
        """What was done, in words."""
        done = "would be written" if self.settings.dry_run else "written"
        return f"{self._written:,} sidecars {done}, {self._same:,} need no change"


def _content(path: str) -> bytes | None:
    if not os.path.lexists(path):
        return None
    if not os.path.isfile(path):
        raise SidecarError("not an ordinary file")
    if os.path.getsize(path) > _LARGEST:
        raise SidecarError(f"larger than {_LARGEST / 1e6:.0f} MB")
    return Path(path).read_bytes()
