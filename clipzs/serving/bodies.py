"""What requests and answers hold: how they are read within the limits, and what they have to say."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from clipzs.labels import LEAST_WEIGHT, MOST_WEIGHT, Label, written
from clipzs.serving.limits import Limits
from clipzs.serving.models import Given
from clipzs.serving.refusals import MALFORMED, OTHER_TYPE, REFUSED, TOO_LARGE, TOO_SLOW, Refusal
from clipzs.serving.room import Room, Share

JSON, MULTIPART, LINES = "application/json", "multipart/form-data", "application/x-ndjson"
OCTETS = "application/octet-stream"
_BASE64 = 4 / 3  # bytes of base64 for one of an image
_LINE_SPARE = 100_000  # bytes of a line beside the image in it

Said = TypeVar("Said", bound=BaseModel)
Text = Annotated[str, StringConstraints(pattern=r"\S")]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT)]


class Body(BaseModel):
    """JSON of a request: no other keys, finite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LabelBody(Body):
    """A label with all that a labels file can say of it."""

    name: Text
    group: Text | list[Text] | None = None
    aliases: list[Text] = []
    prompts: list[Text] = []
    weights: list[Weight] = []
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = None


class OptionsBody(Body):
    """How to classify; each is the option of that name of `clipzs classify`. What is left out is as at the start."""

    templates: list[Text] | None = Field(default=None, description="Names of template sets, of those in `/v1/models`.")
    template: list[Text] | None = Field(default=None, description="Single templates, with `<>` where the label goes.")
    context: str | None = None
    score: Literal["softmax", "sigmoid", "cosine"] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    by_group: bool | None = None
    roll_up: Annotated[float, Field(ge=0.5, le=1)] | None = None
    multi: bool | None = None
    threshold: Probability | None = None
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    min_margin: Probability | None = None
    unknown: bool | None = None
    unknown_label: Text | None = None
    negative: list[Text] | None = None


def _one_of_two(schema: dict[str, Any]) -> None:
    """What the schema of an image says of its fields, as `ImageBody.given` sees to it."""
    for name in ("data", "embedding"):
        said = schema["properties"][name]
        schema["properties"][name] = {"type": "string", "title": said["title"], "description": said["description"]}
    schema["oneOf"] = [{"required": ["data"]}, {"required": ["embedding"]}]


class ImageBody(Body):
    """One image: its bytes, or the embedding that an earlier answer gave of it."""

    model_config = ConfigDict(json_schema_extra=_one_of_two)

    name: str | None = Field(default=None, description="How its record names it; `image-N` unless given.")
    data: str | None = Field(default=None, description="The encoded image (JPEG, PNG, WebP …) in base64.")
    embedding: str | None = Field(default=None, description="In place of `data`: little-endian float32 in base64.")

    def given(self, number: int) -> Given:
        """As models take it.

        Raises:
            Refusal: it has neither or both.
        """
        given = self.model_fields_set - {"name"}
        if len(given) != 1 or (self.data is None and self.embedding is None):
            raise Refusal(MALFORMED, f"image {number} has to have `data` or `embedding`, and not both")
        return Given(f"image-{number}" if self.name is None else self.name, self.data or "", self.embedding)


class Question(Body):
    """What is asked of images."""

    model: Text | None = Field(default=None, description="One of `/v1/models`; the first unless given.")
    labels: list[Text | LabelBody] | None = Field(default=None, description="The server's own unless given.")
    options: OptionsBody = Field(default_factory=OptionsBody)
    embeddings: bool = Field(default=False, description="Whether records shall hold the embeddings of the images.")


class ClassifyBody(Question):
    """A question, and the images."""

    images: Annotated[list[ImageBody], Field(min_length=1)]


class ModelBody(Body):
    """Which model; the first line of a stream to `/v1/embed`."""

    model: Text | None = None


class LabelsBody(ModelBody):
    """Texts to be embedded."""

    prompts: Annotated[list[Annotated[list[Text], Field(min_length=1)]], Field(min_length=1)] = Field(
        description="The prompts of each label."
    )
    weights: list[list[Weight]] = Field(
        default=[], description="How much each prompt counts; none for equal ones. Labels at the end may be left out."
    )


class HfParameters(BaseModel):
    """`parameters` of a Hugging Face zero-shot image classification; what else is in it counts for nothing."""

    candidate_labels: Annotated[list[Text], Field(min_length=1)] | Text
    hypothesis_template: Text | None = None


class HfBody(BaseModel):
    """A Hugging Face zero-shot image classification; what else is in it counts for nothing."""

    inputs: str = Field(description="The encoded image in base64.")
    parameters: HfParameters


class HfScore(BaseModel):
    """A label and its probability."""

    label: str
    score: float


class ErrorBody(BaseModel):
    """Why there is no answer."""

    error: str
    hint: str | None


class ScoreBody(BaseModel):
    """A label, or a group, and its score."""

    label: str
    score: float


class Record(BaseModel):
    """The answer of one image, or why there is none; as `clipzs classify --json` writes it."""

    path: str = Field(description="The name of the image.")
    label: str | None
    score: float | None
    labels: list[str] | None = Field(default=None, description="All answers, with `multi`.")
    groups: list[ScoreBody] | None = Field(default=None, description="The likeliest of each level, with `roll_up`.")
    scores: list[ScoreBody]
    error: str | None
    model: str
    config: str
    embedding: str | None = Field(default=None, description="Little-endian float32 in base64, where it was asked for.")


class Records(BaseModel):
    """One record for each image, in their order."""

    results: list[Record]
    warnings: list[str] = Field(default=[], description="What may be wrong with the labels.")


class Embedded(BaseModel):
    """The embedding of one image, or why there is none."""

    name: str
    error: str | None
    embedding: str | None = Field(description="Little-endian float32 of length 1, in base64.")


class LabelAnswer(BaseModel):
    """The averaged embedding of a label's prompts."""

    embedding: str = Field(description="Little-endian float32 of length 1, in base64.")
    digest: str = Field(description="Of the token ids, hexadecimal: equal for labels the model cannot tell apart.")
    longest: int = Field(description="Tokens of its longest prompt, before any cut.")
    unknown: list[str] = Field(description="Words that the model has no tokens for.")


class LabelsAnswer(BaseModel):
    """One for each label, in their order."""

    labels: list[LabelAnswer]
    encoded: int = Field(description="Prompts that the model had to read, because they were not in the cache.")


class Health(BaseModel):
    """Whether it serves; names only to those who have the token."""

    status: Literal["ok", "stopping"]
    clipzs: str | None = Field(default=None, description="Its version.")
    models: list[str] | None = None


class ServedModelBody(BaseModel):
    """One of the models."""

    id: str
    name: str
    default: bool
    digest: str
    fingerprint: str
    precision: str
    device: str
    engine: str
    logit_scale: float
    logit_bias: float | None
    embedding_size: int
    spec: dict[str, Any]


class TemplateSetBody(BaseModel):
    """A template set that requests can name."""

    name: str
    templates: int
    description: str


class Models(BaseModel):
    """All that can be asked for."""

    models: list[ServedModelBody]
    templates: list[TemplateSetBody]
    labels: list[str | LabelBody] = Field(
        description="The server's own; those that have more than a name with all of it."
    )
    options: dict[str, Any] = Field(
        description="What holds for all that is asked here unless a request says otherwise."
    )
    limits: dict[str, float]


def said_of(label: Label) -> str | dict[str, Any]:
    """A label as requests may name it: its name, or all that it has."""
    more = {
        "group": written(label.groups),
        "aliases": list(label.aliases),
        "prompts": list(label.prompts),
        "weights": list(label.weights),
        "threshold": label.threshold,
    }
    more = {key: value for key, value in more.items() if value not in (None, [])}
    return {"name": label.name, **more} if more else label.name


def media_type(request: Request) -> str:
    """Of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_type(request: Request, *allowed: str) -> str:
    """The type of the body.

    Raises:
        Refusal: another than the allowed ones, or a compressed one.
    """
    found, encoding = media_type(request), request.headers.get("content-encoding", "identity")
    if encoding.lower() not in ("identity", ""):
        raise Refusal(OTHER_TYPE, "compressed requests are not read", hint="leave Content-Encoding out")
    if found not in allowed:
        raise Refusal(
            OTHER_TYPE, f"no body of type {found!r}" if found else "no Content-Type", hint=" or ".join(allowed)
        )
    return found


async def chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body as it comes.

    Raises:
        Refusal: the client sends nothing for too long.
        ClientDisconnect: it is gone.
    """
    more = True
    while more:
        try:
            async with asyncio.timeout(limits.idle_seconds):
                message = await request.receive()
        except TimeoutError as error:
            raise Refusal(
                TOO_SLOW, f"nothing came for {limits.idle_seconds:g} seconds", headers={"Connection": "close"}
            ) from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]


async def within(request: Request, limits: Limits, share: Share) -> AsyncGenerator[bytes, None]:
    """The body of a request that is no stream, as it comes; its bytes count in `share`.

    Raises:
        Refusal: it is too large, or there is no room for it; and as `chunks`.
    """
    most = limits.body_bytes
    too_large = Refusal(
        TOO_LARGE, f"a request has {most / 1e6:g} MB at most", hint=f"send several, or a stream ({LINES})"
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise too_large
    size = 0
    async for chunk in chunks(request, limits):
        size += len(chunk)
        if size > most:
            raise too_large
        share.take(size=len(chunk))
        yield chunk


async def said(request: Request, limits: Limits, share: Share, kind: type[Said]) -> Said:
    """The JSON of a request.

    Raises:
        Refusal: it is none, does not say what it has to, or as `within`.
    """
    check_type(request, JSON)
    return parsed(b"".join([chunk async for chunk in within(request, limits, share)]), kind)


def parsed(text: bytes, kind: type[Said]) -> Said:
    """JSON, checked.

    Raises:
        Refusal: it is none, or does not say what it has to.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise malformed(error) from error


def malformed(error: ValidationError) -> Refusal:
    """The first thing that is wrong."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return Refusal(MALFORMED, f"not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    where = ".".join(map(str, first["loc"]))
    return Refusal(MALFORMED, f"{where}: {first['msg']}" if where else first["msg"], hint="/docs says how")


async def form(request: Request, limits: Limits, share: Share) -> tuple[Question, list[Given]]:
    """The question and the images of a form: the field `request`, and files `image`. Kept in memory.

    Raises:
        Refusal: it is none, lacks one of them, or as `within`.
    """
    parser = _InMemory(
        request.headers,
        within(request, limits, share),
        max_files=limits.images,
        max_fields=1,
        max_part_size=limits.body_bytes,
    )
    try:
        fields = await parser.parse()
    except (MultiPartException, HTTPException) as error:
        message = getattr(error, "message", None) or str(error)
        raise Refusal(MALFORMED, message.rstrip(".")) from error
    text, images = fields.get("request") or "{}", []
    try:
        if not isinstance(text, str):
            raise Refusal(MALFORMED, "`request` is a file, and should be a field of JSON")
        for number, (key, value) in enumerate((k, v) for k, v in fields.multi_items() if k != "request"):
            if key != "image" or isinstance(value, str):
                raise Refusal(MALFORMED, f"unknown field {key!r}", hint="`request` is JSON, and `image` a file")
            images.append(Given(value.filename or f"image-{number}", await value.read()))
    finally:
        await fields.close()
    if not images:
        raise Refusal(MALFORMED, "no image", hint="send each as a file in a field called `image`")
    return parsed(text.encode(), Question), images


class _InMemory(MultiPartParser):
    """Writes no upload to the disk, however large it is."""

    spool_max_size = 1 << 40


async def lines(request: Request, limits: Limits, room: Room) -> AsyncGenerator[bytes, None]:
    """The lines of a stream that say something, as they come. A line counts in `room` until the next is asked for.

    Raises:
        Refusal: one is too long, or there is no room for it; and as `chunks`.
    """
    most = int(limits.image_bytes * _BASE64) + _LINE_SPARE
    held, looked, counted = bytearray(), 0, 0

    def count(size: int) -> None:
        nonlocal counted
        before, counted = counted, size
        room.hold_partly(before, size)

    try:
        async for chunk in chunks(request, limits):
            held += chunk
            while (end := held.find(b"\n", looked)) >= 0:
                line, looked = bytes(held[:end]), 0
                del held[: end + 1]
                if len(line) > most:
                    break
                if line.strip():
                    count(len(line) + len(held))
                    yield line
            looked = len(held)
            count(looked)
            if looked > most or end >= 0:
                raise Refusal(TOO_LARGE, f"a line has {most / 1e6:g} MB at most")
        if held.strip():
            yield bytes(held)
    finally:
        count(0)


def check_images(images: list[Given], limits: Limits) -> None:
    """See that a request has no more images than it may, and none is too large.

    Raises:
        Refusal: it has, or one is.
    """
    if len(images) > limits.images:
        raise Refusal(
            TOO_LARGE,
            f"{len(images)} images, and {limits.images} at most in one request",
            hint=f"send a stream ({LINES})",
        )
    for image in images:
        check_image(image, limits)


def check_image(image: Given, limits: Limits) -> None:
    """See that an image is not too large, nor its name too long.

    Raises:
        Refusal: it is.
    """
    most = limits.image_bytes * (_BASE64 if isinstance(image.data, str) else 1) + 4
    if len(image.data) > most:
        raise Refusal(TOO_LARGE, f"an image has {limits.image_bytes / 1e6:g} MB at most")
    if len(image.name) > limits.characters:
        raise Refusal(REFUSED, f"a name has {limits.characters} characters at most")
