"""Zero-shot image classification as Hugging Face's inference clients ask for it."""

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from clipzs.labels import split_commas
from clipzs.serving import bodies
from clipzs.serving.answering import JsonResponse, bounded, unless_gone
from clipzs.serving.bodies import HfBody, HfParameters, HfScore, OptionsBody, Question
from clipzs.serving.describing import described
from clipzs.serving.models import Given, ServedModel
from clipzs.serving.refusals import REFUSED, Refusal
from clipzs.serving.service import Service

TEMPLATE = "This is a photo of {}."  # where a request names none, as in the transformers package


def routes(service: Service) -> APIRouter:
    """`POST /` for the first model, `POST /models/ID` for one by name."""
    router = APIRouter(tags=["Hugging Face"])

    async def answer(request: Request, model: str | None) -> Response:
        with service.room.taken() as share:
            asked = await bodies.said(request, service.limits, share, HfBody)
            image = Given("inputs", asked.inputs)
            bodies.check_image(image, service.limits)
            share.take(images=1)
            return await unless_gone(request, scored(service.model(model), _question(asked.parameters), image))

    async def scored(model: ServedModel, question: Question, image: Given) -> Response:
        ready = await service.classifier(model, question)
        (result,) = ready.results(await model.embedded([image]))
        if result.error is not None:
            raise Refusal(REFUSED, f"the image cannot be read: {result.error}")
        return JsonResponse([{"label": one.label, "score": one.score} for one in result.scores])

    @router.post("/", summary="Classify an image with the first model", **described(HfBody, list[HfScore], 404))
    @bounded(service)
    async def with_first(request: Request) -> Response:
        """As `InferenceClient(model=URL).zero_shot_image_classification` of huggingface_hub asks."""
        return await answer(request, None)

    @router.post("/models/{model:path}", summary="Classify an image", **described(HfBody, list[HfScore]))
    @bounded(service)
    async def with_named(request: Request, model: str) -> Response:
        """The same, with one of the models."""
        return await answer(request, model)

    return router


def _question(asked: HfParameters) -> Question:
    named = asked.candidate_labels
    try:
        return Question(
            labels=[*split_commas(named)] if isinstance(named, str) else [*named],
            options=OptionsBody(template=[asked.hypothesis_template or TEMPLATE]),
        )
    except ValidationError as error:
        raise bodies.malformed(error) from error
