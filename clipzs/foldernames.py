"""Names of folders for labels: such that every system takes them, and no two labels share one."""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b

UNLABELED = "_unlabeled"  # of images that are none of the labels

_MOST_BYTES = 120  # in UTF-8; systems take 143 to 255, and some only 260 for a whole path
_DIGITS = 8  # of the hash that tells labels apart whose names would be one
# What Windows refuses, what parts a path somewhere, and what would make a name look like another.
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_EDGES = re.compile(r"^[.\s-]+|[.\s]+$")  # hidden, taken for an option, or cut off by Windows
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(?=\.|$)", re.IGNORECASE)


class FolderNames:
    """Each label's folder. Of two labels that would share one, the later is told from the other by a hash of itself.

    Systems differ in which names are one to them: letters large and small, composed and decomposed, with and without
    invisible characters. Here they all are one.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._taken = {_key(UNLABELED)}

    def of(self, label: str) -> str:
        """The name of a label's folder, the same whenever it is asked for."""
        if label not in self._names:
            name = _safe(label)
            digest = blake2b(label.encode("utf-8", "surrogatepass")).hexdigest()
            for digits in range(_DIGITS, len(digest)):
                if _key(name) not in self._taken:
                    break
                name = _told_apart(_safe(label), digest[:digits])
            self.take(label, name)
        return self._names[label]

    def reserve(self, labels: Iterable[str]) -> None:
        """Give labels their names in this order, whichever is asked for first."""
        for label in labels:
            self.of(label)

    def take(self, label: str, name: str) -> None:
        """A name that was given to a label earlier stays with it."""
        self._names[label] = name
        self._taken.add(_key(name))


def _safe(label: str) -> str:
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", label))
    name = _trimmed(_cut(_trimmed(name), _MOST_BYTES))
    device = _DEVICE.match(name)
    return f"{name[: device.end()]}_{name[device.end() :]}" if device else name


def _trimmed(name: str) -> str:
    return _EDGES.sub(lambda edge: "_" * len(edge[0]), name) or "_"


def _cut(name: str, size: int) -> str:
    """At most so many bytes; no character is cut in two."""
    return name.encode()[:size].decode(errors="ignore")


def _told_apart(name: str, digest: str) -> str:
    return f"{_cut(name, _MOST_BYTES - len(digest) - 1)}-{digest}"


def _key(name: str) -> str:
    """The same for all names that any system takes for one."""
    folded = unicodedata.normalize("NFKC", name).casefold().upper().casefold()
    seen = (mark for mark in unicodedata.normalize("NFKC", folded) if unicodedata.category(mark) != "Cf")
    return "".join(seen)
