"""Pages of HTML that ask nobody for anything: what they share, their own style and script inside, and no other runs."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

_PLACES = ("style", "icons", "script")


@cache
def parts(name: str) -> dict[str, str]:
    """The frame of a page ("html"), and its "style", "icons" and "script", those that all pages share first."""
    folder = files("clipzs") / "page"

    def read(*names: str) -> str:
        return "\n".join((folder / one).read_text(encoding="utf-8") for one in names)

    return {
        "html": read(f"{name}.html"),
        "style": read("common.css", f"{name}.css"),
        "icons": read("icons.svg"),
        "script": read("common.js", f"{name}.js"),
    }


def policy(name: str, *, images: str, **more: str) -> str:
    """The Content-Security-Policy of a page: the style and the script inside it, and what is named.

    Args:
        name: of the page.
        images: where they may come from, e.g. "data:".
        more: other directives; `connect_src="'self'"` is `connect-src 'self'`.
    """
    found = parts(name)
    directives = {
        "default-src": "'none'",
        "style-src": _sha256(found["style"]),
        "script-src": _sha256(found["script"]),
        "img-src": images,
        "base-uri": "'none'",
        "form-action": "'none'",
        **{key.replace("_", "-"): value for key, value in more.items()},
    }
    return "; ".join(f"{key} {value}" for key, value in directives.items())


def filled(name: str, values: Mapping[str, str]) -> bytes:
    """The page, UTF-8.

    Args:
        name: of the page.
        values: what takes the place of other marks than those of `parts`: safe inside HTML, each mark once.
    """
    found = parts(name)
    frame = found["html"]
    texts = {**{place: found[place] for place in _PLACES}, **values}
    order = sorted(texts, key=lambda mark: frame.index(f"{{{{{mark}}}}}"))
    pieces = []
    for mark in order:  # as they come; what is put in is not looked through again
        before, frame = frame.split(f"{{{{{mark}}}}}")
        pieces += [before, texts[mark]]
    return "".join([*pieces, frame]).encode()


def _sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
