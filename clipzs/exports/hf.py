"""`metadata.jsonl` of a folder of images, as the imagefolder loader of Hugging Face datasets reads it."""

import json
import os
from pathlib import Path

from clipzs.errors import UsageProblem
from clipzs.exports.common import AtTheEnd, Settings, answers, relative
from clipzs.output import check_writable, save
from clipzs.paths import encodable
from clipzs.results import Result
from clipzs.writers import json_text

NAME = "metadata.jsonl"
_KEYS = {"file_name", "label", "score"}


class HfExport(AtTheEnd):
    """One line an image: `file_name` from the folder of the target, `label`, `score`; with several answers `labels`.

    An image without an answer has null, or no labels, so that it is loaded nevertheless.

    Raises:
        UsageProblem: the target is not called metadata.jsonl, which is what the loader looks for; or there is such a
            file already, and not from here: the labels or captions of someone else.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if settings.file.name != NAME:
            raise UsageProblem(
                f"-o {settings.file}: datasets looks for {NAME}",
                hint=f"name it in the folder of the images: -o FOLDER/{NAME}",
            )
        self._folder = settings.file.parent
        self._lines: dict[str, str] = {}
        check_writable(settings.file)
        if settings.file.is_file() and not _is_ours(settings.file):
            raise UsageProblem(
                f"{settings.file}: holds metadata that an export did not write", hint="move it to another place first"
            )

    def take(self, result: Result) -> None:
        """Keep one line."""
        name = relative(result.path, self._folder)
        if name is None:
            self.left_out.add(result.path, f"outside {self._folder}")
        elif name != encodable(name):
            self.left_out.add(result.path, "its name is not UTF-8, and JSON could not say it")
        elif "::" in name:
            self.left_out.add(result.path, "datasets takes :: in a name for an archive and what is in it")
        elif not os.path.isfile(result.path):
            self.left_out.add(result.path, "no such file")
        else:
            found = [(encodable(label), score) for label, score in answers(result, self.settings)]
            label, score = found[0] if found else (None, None)
            labels = {} if result.labels is None else {"labels": [label for label, _ in found]}
            self._lines[name] = json_text({"file_name": name, "label": label, "score": score, **labels})

    def save(self) -> None:
        """Write the lines in the order in which the images came."""
        if not self._lines:
            raise self.nothing()
        save(self.settings.file, "".join(line + "\n" for line in self._lines.values()).encode())

    def summary(self) -> str:
        """What was done, in words."""
        return f"{len(self._lines):,} images in {self.settings.file}"


def _is_ours(file: Path) -> bool:
    """Whether its first line is as those of an export, or missing."""
    with file.open("rb") as opened:
        line = opened.readline(1 << 20)
    try:
        record = json.loads(line or "null")
    except (ValueError, RecursionError):
        return False
    return not line or (isinstance(record, dict) and {*record} - {"labels"} == _KEYS)
