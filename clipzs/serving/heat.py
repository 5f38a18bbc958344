"""`POST /v1/explain`: where in an image a label is found. With the first heat map come torch and an image tower."""

import asyncio
import base64
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from fastapi import APIRouter, Request, Response
from PIL import Image
from pydantic import BaseModel, Field

from clipzs.classifier import Classifier
from clipzs.decoders import DECODERS, Decoding
from clipzs.errors import ImageError, ModelError
from clipzs.explaining import LONGEST
from clipzs.images import Blob
from clipzs.overlay import laid_on
from clipzs.preprocess import Thumbnail
from clipzs.serving import bodies
from clipzs.serving.answering import JsonResponse, bounded, unless_gone
from clipzs.serving.bodies import ImageBody, Question, Text
from clipzs.serving.describing import described
from clipzs.serving.models import Given, ServedModel, from_base64
from clipzs.serving.refusals import MALFORMED, REFUSED, Refusal, busy
from clipzs.serving.service import Service

if TYPE_CHECKING:
    from clipzs.heatmap import HeatMaps

WAITING = 16  # heat maps that are asked for at the same time, of all clients


class ExplainBody(Question):
    """One image, and which of the labels to draw."""

    label: Text = Field(description="One of the labels.")
    image: ImageBody


class Explained(BaseModel):
    """A heat map."""

    label: str
    method: str = Field(description="How it was made, with its source.")
    found: bool = Field(description="Whether anything in the image speaks for the label.")
    heat: str = Field(description=f"The upright image, at most {LONGEST} pixels long, with its heat: PNG in base64.")


def routes(service: Service) -> APIRouter:
    """`POST /v1/explain`."""
    drawer, router = _Drawer(), APIRouter()

    @router.post(
        "/v1/explain",
        tags=["Classify"],
        summary="Draw where in an image a label is found",
        **described(ExplainBody, Explained),
    )
    @bounded(service)
    async def explain(request: Request) -> Response:
        """The heat map of one label, laid on the image: what speaks for it is bright, what is not seen is dark."""
        with service.room.taken() as share:
            asked = await bodies.said(request, service.limits, share, ExplainBody)
            image = asked.image.given(0)
            bodies.check_image(image, service.limits)
            share.take(images=1)
            return JsonResponse(await unless_gone(request, drawer.answered(service, asked, image)))

    return router


class _Drawer:
    """Draws on a thread of its own, one heat map at a time: the model goes on with images meanwhile."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clipzs-heat")
        self._maps: dict[str, HeatMaps] = {}  # by the id of the model
        self._waiting = 0

    async def answered(self, service: Service, asked: ExplainBody, image: Given) -> dict[str, object]:
        """What is drawn.

        Raises:
            Refusal: the label is none of the labels, the image cannot be read, or the model has no heat maps.
        """
        if image.embedding is not None:
            raise Refusal(MALFORMED, "image: a heat map is drawn on the image itself", hint="send it as `data`")
        model = service.model(asked.model)
        ready = await service.classifier(model, asked)
        names = [label.name for label in ready.classifier.labels]
        if asked.label.strip() not in names:
            raise Refusal(REFUSED, f"{asked.label!r} is none of the labels", hint="write it as there")
        if self._waiting >= WAITING:
            raise busy(f"{self._waiting} heat maps")
        self._waiting += 1
        try:
            return await asyncio.wrap_future(
                self._thread.submit(self._drawn, model, ready.classifier, names.index(asked.label.strip()), image)
            )
        except (ImageError, ModelError) as error:
            raise Refusal(REFUSED, str(error), hint=error.hint) from error
        finally:
            self._waiting -= 1

    def _drawn(self, model: ServedModel, classifier: Classifier, row: int, image: Given) -> dict[str, object]:
        """Of one label; on this object's thread."""
        try:
            data = image.data if isinstance(image.data, bytes) else from_base64(image.data)
        except ValueError as problem:
            raise Refusal(REFUSED, f"image: {problem}") from problem
        options, preprocess = classifier.options, classifier.model.preprocess
        blob = Blob(image.name, data)
        how = Decoding(preprocess, options.max_megapixels, options.exact_decode, options.image_timeout)
        pixels = np.frombuffer(DECODERS.decode(blob, how), np.uint8).reshape(*preprocess.size, 3)
        small = DECODERS.decode(blob, replace(how, preprocess=Thumbnail(LONGEST)))
        if model.id not in self._maps:
            from clipzs.heatmap import HeatMaps

            self._maps[model.id] = HeatMaps(classifier.model, device=options.device)
        heat = self._maps[model.id](pixels, classifier.label_vectors[row])
        content = io.BytesIO()
        with Image.open(io.BytesIO(small)) as picture:
            laid_on(picture.convert("RGB"), heat.grid, preprocess.view(*picture.size)).save(content, "PNG")
        return {
            "label": classifier.labels[row].name,
            "method": heat.method,
            "found": bool(heat.grid.any()),
            "heat": base64.b64encode(content.getvalue()).decode(),
        }
