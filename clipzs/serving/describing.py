"""What OpenAPI says of a route whose body it reads itself: types, status codes, schemas."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from clipzs.serving.bodies import JSON, ErrorBody

_MEANINGS = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    403: "A page of another place, or another name of this machine.",
    404: "No such model.",
    408: "The request came too slowly.",
    413: "The request is too large.",
    415: "The body is of another type.",
    422: "Labels, options or the image cannot be used.",
    429: "Too much is waiting; `Retry-After` says when to try again.",
    500: "The model failed.",
    503: "The server is stopping, or took too long.",
}
_OF_ALL = (401, 403, 500, 503)
_OF_BODIES = (400, 408, 413, 415, 422, 429)
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Responses with these status codes and those that all routes may have."""
    return {
        code: {
            "model": ErrorBody,
            "description": _MEANINGS[code],
            **({"headers": _RETRY} if code == 429 else {}),
        }
        for code in sorted({*codes, *_OF_ALL})
    }


def body(content: Mapping[str, type[BaseModel] | dict[str, Any]]) -> dict[str, Any]:
    """A request body: of each media type the JSON in it, or its schema."""
    return {
        "required": True,
        "content": {
            type_: {"schema": schema if isinstance(schema, dict) else reference(schema)}
            for type_, schema in content.items()
        },
    }


def reference(kind: type[BaseModel]) -> dict[str, str]:
    """Where the schema of a body is (see `app.create_app`)."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def described(asked: type[BaseModel], answer: Any, *codes: int) -> dict[str, Any]:
    """Arguments of a route that takes JSON and answers JSON."""
    return {
        "response_model": answer,
        "responses": errors(*_OF_BODIES, 404, *codes),
        "openapi_extra": {"requestBody": body({JSON: asked})},
    }


def streamed(content: Mapping[str, type[BaseModel] | dict[str, Any]], answers: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a route that takes and answers several media types; `answers`: of each the schema."""
    return {
        "response_model": None,
        "responses": {
            200: {
                "description": "Successful Response",
                "content": {type_: {"schema": schema} for type_, schema in answers.items()},
            },
            **errors(*_OF_BODIES, 404),
        },
        "openapi_extra": {"requestBody": body(content)},
    }
