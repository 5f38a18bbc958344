"""The page that describes the API: made of the OpenAPI document, with nothing in it that runs or is fetched."""

import base64
import hashlib
import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); padding-top: 1rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; background: color-mix(in srgb, currentColor 7%, transparent); }
table { border-collapse: collapse; }
td { padding: .15rem 1rem .15rem 0; vertical-align: top; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def page(document: dict[str, Any]) -> str:
    """The page.

    Args:
        document: OpenAPI 3.1.
    """
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['summary'])}</p>",
        '<p>The same for programs: <a href="/openapi.json"><code>/openapi.json</code></a>.</p>',
    ]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts.append(_route(path, method, route))
    parts.append("<h2>Schemas</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
        parts.append(
            f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary><pre>{text}</pre></details>'
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>clipzs API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _route(path: str, method: str, route: dict[str, Any]) -> str:
    rows = [
        (escape(f"takes {type_}"), _schema(content.get("schema", {})))
        for type_, content in route.get("requestBody", {}).get("content", {}).items()
    ]
    for status, response in route["responses"].items():
        kinds = [_schema(content.get("schema", {})) for content in response.get("content", {}).values()]
        rows.append((escape(status), " ".join([escape(response["description"]), *kinds])))
    told = "".join(f"<p>{escape(text)}</p>" for text in route.get("description", "").split("\n\n"))
    table = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows)
    return f"<h2><code>{method.upper()} {escape(path)}</code></h2>{told}<table>{table}</table>"


def _schema(schema: dict[str, Any]) -> str:
    """A link to a schema that has a name; what there is to say of another."""
    name = schema.get("$ref", "").rpartition("/")[2]
    if name:
        return f'<a href="#{escape(name)}"><code>{escape(name)}</code></a>'
    if "items" in schema:
        return f"a list of {_schema(schema['items'])}"
    return escape(schema.get("type", ""))
