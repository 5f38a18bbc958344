"""Models of running servers: which there are, what they are, and what they say of pixels and texts.

What a server answers is checked: it may be another program, or of another version.
"""

import base64
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np

from clipzs import defaults, servernotes
from clipzs.connection import Connection
from clipzs.encoder import Progress
from clipzs.errors import ModelError, NoAnswer, ServerProblem
from clipzs.modelspec import Licence, ModelSpec
from clipzs.options import AUTO, Options, names_a_model
from clipzs.preprocess import INTERPOLATIONS, RESIZE_MODES, Preprocess
from clipzs.score import Array
from clipzs.store import LabelEmbedding

if TYPE_CHECKING:
    from clipzs.encoder import Pixels

log = logging.getLogger("clipzs")

_DESCRIPTION_BYTES = 10_000_000
_LARGEST_SIDE = 4096  # of a model's images, in pixels
_LABEL_BYTES = 10_000  # of an answer, beside its vector and its words
_ROUNDING = 1e-3  # of the length of unit vectors


@dataclass(frozen=True)
class Facts:
    """What a server says of how its model computes, as `encoder.Computes` has it."""

    engine: str
    device: str
    precision: str
    logit_scale: float
    logit_bias: float | None


@dataclass(frozen=True)
class ServedModel(ModelSpec):
    """A model whose weights are with a server; what is known of them is what that says.

    Attributes:
        digest: as of `ModelSpec`.
        fingerprint: as of `ModelSpec`.
        source: where the server has them from.
    """

    digest: str = ""
    fingerprint: str = ""
    source: str = ""

    @property
    def local_weights(self) -> Path | None:
        """None are here."""
        return None

    @cached_property
    def weights(self) -> Path:
        """There are none here.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"the weights of {self.name} are with the server", hint="leave --server out")


class Served:
    """One model of a server.

    Attributes:
        model: what it is.
        facts: how it computes.
        id: what the server calls it.
        default: whether the server takes it where none is named.
    """

    def __init__(self, connection: Connection, said: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
        """Take what the server says of it.

        Raises:
            Exception: it says something else; of whatever kind.
        """
        self._connection = connection
        self.id, self.default = _text(said["id"]), bool(said["default"])
        self.model = _model(said)
        bias = said["logit_bias"]
        self.facts = Facts(
            _text(said["engine"]), _text(said["device"]), _text(said["precision"]), _number(said["logit_scale"]),
            None if bias is None else _number(bias),
        )  # fmt: skip
        self._width = int(self.model.config["embed_dim"])
        height, width = self.model.preprocess.size
        self._images_at_once = max(1, min(int(limits["images"]), int(limits["body_bytes"]) // (height * width * 3)))
        self._labels_at_once, self._prompts_at_once = int(limits["labels"]), int(limits["prompts"])

    @property
    def address(self) -> str:
        """Of the server, as the user wrote it."""
        return self._connection.address

    def images(self, pixels: "Pixels") -> Array:
        """uint8 [b, height, width, 3] → float32 [b, d], rows of length 1.

        Raises:
            NoAnswer: the server is gone, or too slow.
            ServerProblem: it refuses, or answers nonsense.
        """
        path = f"/v1/pixels?{urlencode({'model': self.model.digest})}"
        parts = []
        for start in range(0, len(pixels), self._images_at_once):
            some = np.ascontiguousarray(pixels[start : start + self._images_at_once])
            length = len(some) * self._width * 4
            answer = self._connection.post(path, some.data.cast("B"), most=length)
            if len(answer) != length:
                raise self._connection.strange(f"{len(answer)} bytes for {len(some)} images")
            parts.append(np.frombuffer(answer, "<f4").astype(np.float32).reshape(len(some), self._width))
        vectors = np.concatenate(parts)
        self._check(vectors)
        return vectors

    def labels(
        self, prompts: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], progress: Progress | None
    ) -> tuple[list[LabelEmbedding], int]:
        """The averaged embedding of each label, and how many prompts had to be encoded; as of `label_embeddings`.

        Raises:
            NoAnswer, ServerProblem: as of `images`.
        """
        weighted = [*zip_longest(prompts, weights, fillvalue=())]
        embedded: list[LabelEmbedding] = []
        encoded = 0
        for some in self._portions(weighted):
            asked = {
                "model": self.model.digest,
                "prompts": [list(texts) for texts, _ in some],
                "weights": [list(of) for _, of in some],
            }
            most = len(some) * (_LABEL_BYTES + 6 * self._width) + 4 * sum(len(t) for texts, _ in some for t in texts)
            answer = self._connection.post_json("/v1/labels", asked, most=most)
            try:
                found = [self._label(one) for one in answer["labels"]]
                encoded += int(answer["encoded"])
            except (ValueError, KeyError, TypeError) as error:
                raise self._connection.strange("its answer is no embeddings of labels") from error
            if len(found) != len(some):
                raise self._connection.strange(f"{len(found)} embeddings of {len(some)} labels")
            embedded += found
            if progress:
                progress(len(embedded), len(weighted))
        self._check(np.stack([one.vector for one in embedded]))
        return embedded, encoded

    def _portions(
        self, weighted: Sequence[tuple[Sequence[str], Sequence[float]]]
    ) -> Iterator[list[tuple[Sequence[str], Sequence[float]]]]:
        """As many labels together as the server takes; one at least."""
        some: list[tuple[Sequence[str], Sequence[float]]] = []
        prompts = 0
        for one in weighted:
            if some and (len(some) == self._labels_at_once or prompts + len(one[0]) > self._prompts_at_once):
                yield some
                some, prompts = [], 0
            some.append(one)
            prompts += len(one[0])
        yield some

    def _label(self, said: Mapping[str, Any]) -> LabelEmbedding:
        vector = np.frombuffer(base64.b64decode(said["embedding"], validate=True), "<f4").astype(np.float32)
        if vector.shape != (self._width,):
            raise ValueError("a vector of another length")
        unknown = tuple(_text(word) for word in said["unknown"])
        return LabelEmbedding(vector, bytes.fromhex(said["digest"]), int(said["longest"]), unknown)

    def _check(self, vectors: Array) -> None:
        """That they are of length 1; numbers that are not finite are the model's fault, and found elsewhere."""
        lengths = np.linalg.norm(vectors, axis=1)
        if (np.abs(lengths - 1) > _ROUNDING).any():
            raise self._connection.strange("what it answers are no embeddings")

    def differs(self, options: Options) -> str | None:
        """In what it does not do as it is asked; None where it does."""
        asked = {
            "precision": (options.precision, self.facts.precision),
            "engine": (options.engine, self.facts.engine),
            "device": (options.device, self.facts.device),
        }
        for name, (wanted, here) in asked.items():
            if wanted not in ("auto", here):
                return f"--{name} {wanted} is asked for, and there it is {here}"
        return "--compile is for a model in this process" if options.compile else None


def found(options: Options, own: Callable[[], ModelSpec]) -> Served | None:
    """The model of a server that the options ask for; None where this process is to compute, and a warning says why.

    Args:
        options: of which `server` is set.
        own: gives the model that this process would use.

    Raises:
        ServerProblem: the server that is named refuses, is none of clipzs', or has no such model.
    """
    served = _running(options, own) if options.server == AUTO else _named(options, own)
    if served is not None:
        log.debug("%s computes, with %s", served.address, served.model.name)
    return served


def _running(options: Options, own: Callable[[], ModelSpec]) -> Served | None:
    """The first running server of this user that has the model which this process would use."""
    notes = servernotes.running(servernotes.folder(options.cache_dir or defaults.cache_dir()))
    why = "no server is running"
    for note in notes:
        why = f"no running server has {own().name} as it is asked for"
        try:
            for served in _described(Connection(note.url, note.token)):
                if served.model.digest == own().digest and served.differs(options) is None:
                    return served
        except ServerProblem as problem:
            log.debug("--server auto: %s", problem)
    log.warning("--server auto: %s: computing in this process", why)
    return None


def _named(options: Options, own: Callable[[], ModelSpec]) -> Served | None:
    """The model of the server that the user has named; None if that does not answer.

    Raises:
        ServerProblem: it refuses, is none of clipzs', or has no such model.
    """
    connection = Connection(str(options.server), os.environ.get("CLIPZS_TOKEN") or None)
    try:
        models = _described(connection)
    except NoAnswer as problem:
        log.warning("%s: computing in this process", problem)
        return None
    if not names_a_model(options):
        served = next((one for one in models if one.default), models[0])
    else:
        served = _matching(models, own(), connection.address)
    differs = served.differs(options)
    if differs:
        raise ServerProblem(f"{connection.address}: {differs}", hint="leave that option out, or --server")
    return served


def _matching(models: Sequence[Served], wanted: ModelSpec, address: str) -> Served:
    """The model that this process would use.

    Raises:
        ServerProblem: the server has none, or another of that name.
    """
    if wanted.local_weights is not None:
        found = next((one for one in models if one.model.digest == wanted.digest), None)
    else:
        found = next((one for one in models if _described_alike(one.model, wanted)), None)
    if found is not None:
        return found
    names = ", ".join(one.model.name for one in models)
    if wanted.name in (one.model.name for one in models):
        raise ServerProblem(
            f"{address}: its {wanted.name} has other weights or settings than the one here",
            hint="the server may be of another version of clipzs; leave --server out",
        )
    raise ServerProblem(f"{address} has no {wanted.name}", hint=f"it has {names}")


def _described_alike(one: ModelSpec, other: ModelSpec) -> bool:
    return one.name == other.name and _settings(one) == _settings(other)


def _settings(model: ModelSpec) -> object:
    """What determines the numbers beside the weights, as JSON has it."""
    return json.loads(json.dumps([dict(model.config), vars(model.preprocess)], default=list))


def _described(connection: Connection) -> list[Served]:
    """The models of a server, of which there is at least one.

    Raises:
        NoAnswer: it does not answer.
        ServerProblem: it refuses, or is none of clipzs'.
    """
    said = connection.get("/v1/models", most=_DESCRIPTION_BYTES)
    try:
        models = [Served(connection, one, said["limits"]) for one in said["models"]]
    except Exception as error:  # whatever it answers
        raise connection.strange("it does not say which models it has") from error
    if not models:
        raise connection.strange("it has no models")
    return models


def _model(said: Mapping[str, Any]) -> ServedModel:
    spec = said["spec"]
    licence = spec["licence"]
    config = dict(spec["config"])
    if not isinstance(config["text_cfg"], dict) or not 0 < int(config["embed_dim"]) <= 1 << 16:
        raise ValueError("not a config")
    return ServedModel(
        name=_text(said["name"]),
        config=config,
        preprocess=_preprocess(spec["preprocess"]),
        backend=_text(spec["backend"]),
        languages=tuple(_text(one) for one in spec["languages"]),
        licence=None if licence is None else Licence(_text(licence["name"]), bool(licence["commercial"]), ""),
        family=str(spec["family"]),
        digest=_text(said["digest"]),
        fingerprint=_text(said["fingerprint"]),
        source=_text(spec["source"]),
    )


def _preprocess(said: Mapping[str, Any]) -> Preprocess:
    height, width = (int(side) for side in said["size"])
    made = Preprocess(
        (height, width),
        tuple(_number(one) for one in said["mean"]),
        tuple(_number(one) for one in said["std"]),
        str(said["interpolation"]),
        str(said["resize_mode"]),
        int(said["fill_color"]),
    )
    known = made.interpolation in INTERPOLATIONS and made.resize_mode in RESIZE_MODES
    if not known or not 0 < height <= _LARGEST_SIDE or not 0 < width <= _LARGEST_SIDE:
        raise ValueError("images of no known kind")
    return made


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("not a text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)
