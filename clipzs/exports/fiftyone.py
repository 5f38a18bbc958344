"""Labels for FiftyOne: the labels.json of its FiftyOneImageClassificationDataset, with absolute paths for keys."""

import os
from typing import Any

from clipzs.exports.common import AtTheEnd, Settings, answers, named
from clipzs.output import check_writable, save
from clipzs.paths import encodable
from clipzs.results import Result
from clipzs.writers import json_text


class FiftyOneExport(AtTheEnd):
    """`{"classes": [...], "labels": {path: {"label", "confidence"}}}`; lists of those where there are several answers.

    An image without an answer has null: a sample without a label. No image is copied.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._labels: dict[str, list[dict[str, Any]]] = {}
        self._classes: set[str] = set()
        self._several = False
        check_writable(settings.file)

    def take(self, result: Result) -> None:
        """Keep the answers of one image."""
        path = os.path.abspath(result.path)
        if path != encodable(path):
            self.left_out.add(result.path, "its name is not UTF-8, which FiftyOne's database could not hold")
            return
        self._several |= result.labels is not None
        self._classes |= named(result, self.settings)
        self._labels[path] = [
            {"label": encodable(label)} | ({} if score is None else {"confidence": score})
            for label, score in answers(result, self.settings)
        ]

    def save(self) -> None:
        """Write the document."""
        if not self._labels:
            raise self.nothing()
        labels = {
            path: found or None if self._several else next(iter(found), None) for path, found in self._labels.items()
        }
        document = {"classes": sorted(map(encodable, self._classes)), "labels": labels}
        save(self.settings.file, (json_text(document) + "\n").encode())

    def summary(self) -> str:
        """What was done, in words."""
        return f"{len(self._labels):,} images in {self.settings.file}"
