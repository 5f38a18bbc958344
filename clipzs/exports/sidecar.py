"""One XMP document: keywords in, everything else as it was."""

from collections.abc import Sequence
from typing import Any

from clipzs.exports.keywords import Keywords

X = "adobe:ns:meta/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
LR = "http://ns.adobe.com/lightroom/1.0/"
CLIPZS = "urn:clipzs:xmp/1.0/"
_PREFIXES = {"dc": DC, "lr": LR, "clipzs": CLIPZS}
# Each list of keywords, and the list of those in it that are ours.
_LISTS = (
    (f"{{{DC}}}subject", f"{{{CLIPZS}}}subject"),
    (f"{{{LR}}}hierarchicalSubject", f"{{{CLIPZS}}}hierarchicalSubject"),
)
_CONTAINERS = {f"{{{RDF}}}{name}" for name in ("Bag", "Seq", "Alt")}
_ITEM, _BAG, _ABOUT = f"{{{RDF}}}li", f"{{{RDF}}}Bag", f"{{{RDF}}}about"
_EMPTY = f'<x:xmpmeta xmlns:x="{X}" x:xmptk="clipzs">\n <rdf:RDF xmlns:rdf="{RDF}"></rdf:RDF>\n</x:xmpmeta>'.encode()


class SidecarError(Exception):
    """A document that is not XMP as it should be; the message says why. It is to be left alone."""


class Sidecar:
    """An XMP document.

    Of the keywords it remembers, in lists of a namespace of clipzs, which were not there before clipzs came. So a
    later export takes out what it no longer says, and nothing that someone else did.
    """

    def __init__(self, content: bytes | None) -> None:
        """Read a document, or begin one.

        Raises:
            SidecarError: it is not well-formed, has a document type (XMP has none, and attacks do), or no RDF.
        """
        from lxml import etree

        self._etree = etree
        # Nothing is fetched or expanded, whatever the document asks for.
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, strip_cdata=False)
        try:
            root = etree.fromstring(_EMPTY if content is None else content, parser)
        except (etree.XMLSyntaxError, ValueError) as error:
            raise SidecarError(f"not well-formed XML: {error}") from error
        self._tree = root.getroottree()
        if self._tree.docinfo.doctype:
            raise SidecarError("it has a document type, which XMP has not")
        found = [root] if root.tag == f"{{{RDF}}}RDF" else root.findall(f"{{{RDF}}}RDF")
        if len(found) != 1:
            raise SidecarError(f"not XMP: it has {'no' if not found else 'more than one'} rdf:RDF")
        self._rdf = found[0]
        self._nodes = [node for node in self._rdf if isinstance(node.tag, str)]
        self._declared = content is None or content.lstrip(b"\xef\xbb\xbf").startswith(b"<?xml")

    def update(self, wanted: Keywords) -> list[tuple[str, str]]:
        """Put keywords in and take those of an earlier export out; the changes, "+" or "-" and a keyword.

        Raises:
            SidecarError: keywords are there in a form that is no list.
        """
        lists = [(self._list(name), self._list(own)) for name, own in _LISTS]  # all looked at before any is changed
        changes = []
        for names, (bag, own), keywords in zip(_LISTS, lists, (wanted.flat, wanted.hierarchical), strict=True):
            changes += self._updated(names, bag, own, keywords)
        return changes

    def _updated(self, names: tuple[str, str], bag: Any, own: Any, wanted: Sequence[str]) -> list[tuple[str, str]]:
        there, ours = _texts(bag), _texts(own)
        out = [keyword for keyword in dict.fromkeys(ours) if keyword in there and keyword not in wanted]
        new = [keyword for keyword in wanted if keyword not in there]
        name, own_name = names
        self._set(name, bag, out, new)
        kept = [keyword for keyword in wanted if keyword in ours or keyword in new]
        if kept != ours:
            gone = [keyword for keyword in ours if keyword not in kept]
            self._set(own_name, own, gone, [keyword for keyword in kept if keyword not in ours])
        return [*(("-", keyword) for keyword in out), *(("+", keyword) for keyword in new)]

    def serialised(self) -> bytes:
        """The document in UTF-8, what stands around its root included."""
        written: bytes = self._etree.tostring(self._tree, encoding="UTF-8", xml_declaration=self._declared)
        return written + b"\n"

    def _list(self, name: str) -> Any:
        """The container of a property, or None if there is no such property."""
        if any(node.get(name) is not None for node in self._nodes):
            raise SidecarError(f"its {_short(name)} is not a list")
        found = [one for node in self._nodes for one in node.findall(name)]
        if not found:
            return None
        inside = [child for child in found[0] if isinstance(child.tag, str)]
        if len(found) > 1 or len(inside) != 1 or inside[0].tag not in _CONTAINERS:
            raise SidecarError(f"its {_short(name)} is not a list")
        return inside[0]

    def _set(self, name: str, bag: Any, out: Sequence[str], new: Sequence[str]) -> None:
        """Take some items out of a list and put others at its end; make it where it is missing."""
        if bag is not None and out:
            for item in [item for item in bag if item.tag == _ITEM and not len(item) and item.text in out]:
                _remove(item)
        if new:
            bag = self._made(name) if bag is None else bag
            for keyword in new:
                _append(bag, self._etree.SubElement(bag, _ITEM), keyword)
        if out and bag is not None and not len(bag):
            _remove(bag.getparent())

    def _made(self, name: str) -> Any:
        home = self._home()
        bag = self._etree.SubElement(self._etree.SubElement(home, name), _BAG)
        home.text, bag.getparent().tail = "\n   ", "\n  "
        for before in home[:-1]:
            before.tail = "\n   "
        bag.getparent().text, bag.tail = "\n    ", "\n   "
        return bag

    def _home(self) -> Any:
        """The description that is ours, at the end; all descriptions of a document are about the same."""
        for node in self._nodes:
            if node.nsmap.get("clipzs") == CLIPZS and not _foreign(node):
                return node
        about = next((node.get(_ABOUT) for node in self._nodes if node.get(_ABOUT) is not None), "")
        node = self._etree.SubElement(self._rdf, f"{{{RDF}}}Description", {_ABOUT: about}, nsmap=_PREFIXES)
        before = node.getprevious()
        if before is None:
            self._rdf.text = "\n  "
        else:
            before.tail = before.tail or "\n  "
        node.tail = "\n "
        self._nodes.append(node)
        return node


def _foreign(node: Any) -> bool:
    ours = {name for names in _LISTS for name in names}
    return any(child.tag not in ours for child in node) or set(node.attrib) - {_ABOUT} != set()


def _texts(bag: Any) -> list[str]:
    """Of the items that are plain text."""
    return [] if bag is None else [item.text or "" for item in bag if item.tag == _ITEM and not len(item)]


def _append(bag: Any, item: Any, keyword: str) -> None:
    """The new last item of a list, on a line as the others are."""
    item.text = keyword
    before = item.getprevious()
    if before is None:
        bag.text, item.tail = "\n     ", "\n    "
    else:
        item.tail = before.tail
        before.tail = bag.text


def _remove(element: Any) -> None:
    """Take an element out; the white space behind it, before which another ends, goes where it is still needed."""
    parent, before = element.getparent(), element.getprevious()
    if element.getnext() is None:
        if before is not None:
            before.tail = element.tail
        else:
            parent.text = None
    parent.remove(element)


def _short(name: str) -> str:
    uri, local = name[1:].split("}")
    return f"{next(prefix for prefix, one in _PREFIXES.items() if one == uri)}:{local}"
