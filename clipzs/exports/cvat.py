"""Tags for CVAT, in its own format "CVAT for images 1.1", and the definition of the labels that they need."""

import os
from contextlib import suppress
from xml.sax.saxutils import escape, quoteattr

from clipzs.errors import ImageError
from clipzs.exports.common import AtTheEnd, Settings, answers, fits_xml, named, relative, xml_text
from clipzs.exports.labelstudio import write_definition
from clipzs.images import upright_size
from clipzs.output import check_writable, save
from clipzs.results import Result
from clipzs.writers import json_text

# Where CVAT does not find a name, it takes the number of an image for that of a frame, and would put tags on other
# images without a word. No task has this frame.
_FIRST_ID = 1_000_000_000


class CvatExport(AtTheEnd):
    """One `<image>` with its name from the base folder and a `<tag>` for each answer; none where there is no answer.

    CVAT is to find the images of a task by their names. Sizes are there for other readers of the format, of images that
    can be read.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._images: dict[str, tuple[str, tuple[str, ...]]] = {}  # path and answers by name
        self._labels: set[str] = set()
        for file in (settings.file, settings.label_config):
            if file is not None:
                check_writable(file)

    def take(self, result: Result) -> None:
        """Keep the answers of one image."""
        name = relative(result.path, self.settings.base)
        if name is None:
            self.left_out.add(result.path, f"outside {self.settings.base}")
        elif not fits_xml(name):
            self.left_out.add(result.path, "XML cannot hold its name")
        else:
            self._labels |= set(map(xml_text, named(result, self.settings)))
            self._images[name] = result.path, tuple(xml_text(label) for label, _ in answers(result, self.settings))

    def save(self) -> None:
        """Write the document, then the definition."""
        if not self._images:
            raise self.nothing()
        labels = sorted(self._labels)
        parts = ['<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n']
        parts.append(f"  <meta>\n    <task>\n      <size>{len(self._images)}</size>\n      <mode>annotation</mode>\n")
        parts.append("      <labels>\n")
        parts += [
            f"        <label><name>{_text(label)}</name><type>tag</type><attributes></attributes></label>\n"
            for label in labels
        ]
        parts.append("      </labels>\n    </task>\n  </meta>\n")
        for number, (name, (path, tags)) in enumerate(self._images.items(), _FIRST_ID):
            parts.append(f'  <image id="{number}" name={quoteattr(name)}{_size(path)}>\n')
            parts += [f'    <tag label={quoteattr(tag)} source="auto"></tag>\n' for tag in tags]
            parts.append("  </image>\n")
        parts.append("</annotations>\n")
        save(self.settings.file, "".join(parts).encode())
        definition = ",\n".join(json_text({"name": label, "type": "tag", "attributes": []}) for label in labels)
        write_definition(f"[\n{definition}\n]\n", self.settings)

    def summary(self) -> str:
        """What was done, in words."""
        return f"{len(self._images):,} images in {self.settings.file}"


def _text(label: str) -> str:
    return escape(label, {"\r": "&#13;"})


def _size(path: str) -> str:
    if os.path.isfile(path):  # to open a pipe would wait for its writer
        with suppress(ImageError):
            width, height = upright_size(path)
            return f' width="{width}" height="{height}"'
    return ""
