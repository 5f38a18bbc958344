"""All routes together: the application that a web server runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from clipzs import __version__
from clipzs.pipeline import Prepared
from clipzs.serving import apidoc, bodies, heat, hf, page
from clipzs.serving.answering import JsonResponse, Stream, bounded, closed_on_failure, scored, unless_gone
from clipzs.serving.bodies import (
    JSON,
    LINES,
    MULTIPART,
    OCTETS,
    ClassifyBody,
    Embedded,
    ErrorBody,
    Health,
    ImageBody,
    LabelsAnswer,
    LabelsBody,
    ModelBody,
    Models,
    Question,
    Record,
    Records,
)
from clipzs.serving.describing import described, errors, reference, streamed
from clipzs.serving.guard import Guard
from clipzs.serving.measures import MEDIA_TYPE
from clipzs.serving.models import Given, to_base64
from clipzs.serving.refusals import MALFORMED, TOO_LARGE, Refusal
from clipzs.serving.service import Service

_SUMMARY = "Zero-shot image classification: name classes in words, send images, get scores."
_BODIES = (
    bodies.HfBody, ClassifyBody, Question, ImageBody, LabelsBody, ModelBody, Record, Records, Embedded, ErrorBody,
    heat.ExplainBody,
)  # fmt: skip
_FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "request": {"type": "string", "contentMediaType": JSON, "contentSchema": reference(Question)},
        "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
    },
    "additionalProperties": False,
}


def create_app(service: Service) -> FastAPI:
    """The application; the models of the service have been started."""
    app = FastAPI(
        title="clipzs", version=__version__, summary=_SUMMARY, docs_url=None, redoc_url=None, openapi_url=None
    )
    _about(app, service)
    _classify(app, service)
    _embed(app, service)
    app.include_router(heat.routes(service))
    app.include_router(hf.routes(service))
    app.include_router(page.routes())
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_middleware(Guard, service=service)
    return app


def _no_such_route(request: Request, error: Exception) -> Response:
    """In the form of all errors."""
    if not isinstance(error, HTTPException):
        raise error
    said, headers = str(error.detail).lower(), dict(error.headers or {})
    if error.status_code == 404:
        said = "no such route"
    known = request.app.openapi()["paths"].get(request.url.path)
    if error.status_code == 405 and known:  # several routes have the path, each with a method of its own
        headers["Allow"] = ", ".join(sorted(map(str.upper, known)))
    return JsonResponse({"error": said, "hint": "/docs lists them"}, error.status_code, headers=headers)


def _about(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=Health, responses={503: {"model": Health}}, tags=["Server"])
    async def health(request: Request) -> Response:
        """Whether it serves."""
        stopping = service.stopping.is_set()
        known = {"clipzs": __version__, "models": [*service.models]} if request.scope["state"]["known"] else {}
        return JsonResponse({"status": "stopping" if stopping else "ok", **known}, 503 if stopping else 200)

    @app.get("/metrics", response_class=Response, responses=errors(), tags=["Server"])
    async def metrics() -> Response:
        """Counters, gauges and histograms for Prometheus."""
        return Response(service.measures.text(), media_type=MEDIA_TYPE)

    @app.get("/v1/models", response_model=Models, responses=errors(), tags=["Server"])
    async def models() -> Response:
        """What can be asked for: models, template sets, the server's labels, limits."""
        first, *_ = service.models.values()
        return JsonResponse(
            {
                "models": [{**model.as_json(), "default": model is first} for model in service.models.values()],
                "templates": [
                    {"name": name, "templates": len(each.templates), "description": each.description}
                    for name, each in service.sets.items()
                ],
                "labels": [bodies.said_of(label) for label in service.labels],
                "options": {
                    name: getattr(first.options, name)
                    for name in ("templates", "template", "context", "language", "exact_decode")
                },
                "limits": {
                    **service.limits.as_json(),
                    "megapixels": first.options.max_megapixels,
                    "image_seconds": first.options.image_timeout,
                    "batch_size": first.options.batch_size,
                },
            }
        )

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = FastAPI.openapi(app)
            _, schemas = models_json_schema(
                [(kind, "validation") for kind in _BODIES], ref_template="#/components/schemas/{model}"
            )
            made["components"]["schemas"] = {**schemas["$defs"], **made["components"]["schemas"]}
            made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{"token": []}] if service.token is not None else []
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JsonResponse(document())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(apidoc.page(document()), headers={"Content-Security-Policy": apidoc.POLICY})


def _classify(app: FastAPI, service: Service) -> None:
    @bounded(service)
    async def at_once(request: Request) -> Response:
        with service.room.taken() as share:
            if bodies.check_type(request, JSON, MULTIPART, LINES) == JSON:
                asked = await bodies.said(request, service.limits, share, ClassifyBody)
                question: Question = asked
                images = [image.given(number) for number, image in enumerate(asked.images)]
            else:
                question, images = await bodies.form(request, service.limits, share)
            bodies.check_images(images, service.limits)
            share.take(images=len(images))
            return await unless_gone(request, answer(question, images))

    async def answer(question: Question, images: Sequence[Given]) -> Response:
        model = service.model(question.model)
        ready = await service.classifier(model, question)
        made = await scored(ready, await model.embedded(images), embeddings=question.embeddings)
        return JsonResponse({"results": made, **({"warnings": list(ready.warnings)} if ready.warnings else {})})

    @bounded(service)
    async def streaming(request: Request) -> Response:
        bodies.check_type(request, LINES)
        lines = bodies.lines(request, service.limits, service.room)
        async with closed_on_failure(lines):
            question = bodies.parsed(await anext(lines, b""), Question)
            model = service.model(question.model)
            ready = await service.classifier(model, question)

        async def records(images: Sequence[Prepared]) -> Sequence[Any]:
            return await scored(ready, images, embeddings=question.embeddings)

        return Stream(service, model, lines, records)

    @app.post(
        "/v1/classify",
        tags=["Classify"],
        summary="Classify images",
        **streamed(
            {JSON: ClassifyBody, MULTIPART: _FORM, LINES: {"type": "string"}},
            {JSON: reference(Records), LINES: {"type": "string"}},
        ),
    )
    async def classify(request: Request) -> Response:
        """A question and images; a record of each. An image that cannot be read is a record with its `error`.

        As JSON; as a form, whose field `request` is that JSON without `images`, and whose files are called `image`; or
        as a stream: the first line is that JSON without `images`, each further line one of the images, and each line
        of the answer one record, in the same order, as they are done. Read while you send. A stream that ends before
        its time ends with a line that has `error` and no `path`.
        """
        return await (streaming if bodies.media_type(request) == LINES else at_once)(request)


def _embed(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/embed",
        tags=["Embed"],
        summary="Embed images",
        **streamed({LINES: {"type": "string"}}, {LINES: {"type": "string"}}),
    )
    @bounded(service)
    async def embed(request: Request) -> Response:
        """Embeddings of images, as a stream: the first line names the `model`, each further one has `name` and `data`.

        Each line of the answer has `name`, `error` and `embedding`.
        """
        bodies.check_type(request, LINES)
        lines = bodies.lines(request, service.limits, service.room)
        async with closed_on_failure(lines):
            model = service.model(bodies.parsed(await anext(lines, b""), ModelBody).model)

        async def embedded(images: Sequence[Prepared]) -> Sequence[Any]:
            return [
                {
                    "name": one.name,
                    "error": one.error,
                    "embedding": None if one.vector is None else to_base64(one.vector),
                }
                for one in images
            ]

        return Stream(service, model, lines, embedded)

    @app.post(
        "/v1/pixels",
        tags=["Embed"],
        summary="Embed pixels",
        openapi_extra={
            "parameters": [{"name": "model", "in": "query", "schema": {"type": "string"}}],
            **streamed({OCTETS: {"type": "string", "format": "binary"}}, {})["openapi_extra"],
        },
        response_model=None,
        responses=streamed({}, {OCTETS: {"type": "string", "format": "binary"}})["responses"],
    )
    @bounded(service, bulk=True)
    async def pixels(request: Request) -> Response:
        """Embeddings of images that are decoded and prepared already, as `clipzs classify --server` sends them.

        In: uint8 [n, height, width, 3] as `spec.preprocess` of the model has it. Out: little-endian float32 [n, d].
        They go through the model together.
        """
        model = service.model(request.query_params.get("model"))
        bodies.check_type(request, OCTETS)
        with service.room.taken() as share:
            content = b"".join([chunk async for chunk in bodies.within(request, service.limits, share)])
            height, width = model.embedder.model.preprocess.size
            count, rest = divmod(len(content), height * width * 3)
            if rest or not count:
                raise Refusal(MALFORMED, f"not a number of images of {width}x{height} pixels: {len(content)} bytes")
            if count > service.limits.images:
                raise Refusal(TOO_LARGE, f"{count} images, and {service.limits.images} at most in one request")
            share.take(images=count)
            images = np.frombuffer(content, np.uint8).reshape(count, height, width, 3)
            vectors = await unless_gone(request, model.of_pixels(images))
        return Response(vectors.astype("<f4").tobytes(), media_type=OCTETS)

    @app.post("/v1/labels", tags=["Embed"], summary="Embed texts", **described(LabelsBody, LabelsAnswer))
    @bounded(service, bulk=True)
    async def labels(request: Request) -> Response:
        """The averaged embedding of each label's prompts."""
        with service.room.taken() as share:
            asked = await bodies.said(request, service.limits, share, LabelsBody)
            model = service.model(asked.model)
            check_labels(asked)
            embedded, encoded = await unless_gone(request, model.labels(asked.prompts, asked.weights))
        made = [
            {
                "embedding": to_base64(one.vector),
                "digest": one.tokens.hex(),
                "longest": one.longest,
                "unknown": list(one.unknown),
            }
            for one in embedded
        ]
        return JsonResponse({"labels": made, "encoded": encoded})

    def check_labels(asked: LabelsBody) -> None:
        if len(asked.prompts) > service.limits.labels:
            raise Refusal(TOO_LARGE, f"{len(asked.prompts)} labels, and {service.limits.labels} at most")
        service.check_prompts(sum(map(len, asked.prompts)))
        service.check_texts(text for texts in asked.prompts for text in texts)
        if len(asked.weights) > len(asked.prompts) or any(
            len(of) not in (0, len(texts)) for of, texts in zip(asked.weights, asked.prompts, strict=False)
        ):
            raise Refusal(MALFORMED, "weights: one for each prompt of a label, or none")
