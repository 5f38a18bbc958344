"""All that is served: models, the labels they are asked about unless a request names others, and what is shared."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from clipzs import templates
from clipzs.errors import LabelsError, TemplatesError
from clipzs.labels import Label, levels
from clipzs.options import Options, checked
from clipzs.serving.bodies import LabelBody, OptionsBody, Question
from clipzs.serving.limits import Limits
from clipzs.serving.measures import Measures
from clipzs.serving.models import Ready, ServedModel
from clipzs.serving.refusals import REFUSED, TOO_LARGE, UNKNOWN, Refusal
from clipzs.serving.room import Room
from clipzs.templates import TemplateSet

log = logging.getLogger("clipzs")


class Service:
    """What the routes share.

    Attributes:
        models: by what they were called at the start; the first is asked where a request names none.
        labels: asked about where a request names none; there may be none.
        limits: of requests.
        measures: what is counted.
        room: what may wait.
        token: what requests have to show; None lets everyone in.
        local: whether only this machine reaches it, by an address of its own: then browsers must come from there.
        stopping: set when nothing more is taken on.
        sets: the template sets that requests may name, by name.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        measures: Measures,
        *,
        labels: Sequence[Label] = (),
        limits: Limits | None = None,
        token: str | None = None,
        local: bool = True,
    ) -> None:
        """Set up; `start` loads the models."""
        self.models = {model.id: model for model in models}
        self.labels = tuple(labels)
        self.limits = limits or Limits()
        self.measures = measures
        self.room = Room(self.limits, measures)
        self.token = token
        self.local = local
        self.stopping = asyncio.Event()
        self.sets = _sets(models[0].options.prompts_dir)

    def start(self) -> None:
        """Load the models.

        Raises:
            ClipzsError: one cannot be had, or the labels cannot be used.
        """
        for model in self.models.values():
            model.start(self.labels)

    def close(self) -> None:
        """Finish what the models have begun."""
        for model in self.models.values():
            model.close()

    def model(self, name: str | None) -> ServedModel:
        """The first, or that of an id, a full name or a digest.

        Raises:
            Refusal: it is not served.
        """
        if name is None:
            return next(iter(self.models.values()))
        for model in self.models.values():
            if name in (model.id, model.embedder.model.name, model.embedder.model.digest):
                return model
        raise Refusal(UNKNOWN, f"no model {name!r} here", hint=f"there is {', '.join(self.models)}")

    async def classifier(self, model: ServedModel, question: Question) -> Ready:
        """What answers a question.

        Raises:
            Refusal: more is asked than may be, or by names that are not known.
            ClipzsError: labels or options that do not go together.
        """
        if question.labels is None and not self.labels:
            raise Refusal(REFUSED, "no labels", hint="name some in `labels`; this server has none of its own")
        options = self._options(model.options, question.options)
        given = self.labels
        if question.labels is not None:
            given = tuple(_label(label) for label in question.labels)
        if not model.has(given, options):
            if question.labels is not None:
                self._check_labels(given)
            self._check_prompts(given, options)
        return await model.classifier(given, options)

    def _options(self, usual: Options, asked: OptionsBody) -> Options:
        given = {name: value for name, value in asked.model_dump().items() if value is not None}
        for name in given.get("templates", ()):
            self._check_set(name)
        if "templates" in given or "template" in given:
            usual = replace(usual, templates=(), template=())
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return checked(replace(usual, **given))

    def _check_set(self, name: str) -> None:
        """A name that is not of a set would be taken for that of a file."""
        if name not in self.sets:
            raise TemplatesError(f"no template set {name!r} here", hint="/v1/models names them; no file is opened")

    def _check_labels(self, given: Sequence[Label]) -> None:
        most = self.limits.labels
        if len(given) > most:
            raise Refusal(TOO_LARGE, f"{len(given)} labels, and {most} at most")
        self.check_texts(text for one in given for text in (one.name, *one.aliases, *one.prompts, *one.groups))

    def _check_prompts(self, given: Sequence[Label], options: Options) -> None:
        """See that no more prompts are asked for than may be, before any is made."""
        self.check_texts([*options.template, *options.negative, options.context, options.unknown_label])
        several = len(templates.chosen(options.templates, options.template, "", options.prompts_dir))
        prompts = sum(len(one.prompts or range(several)) + len(one.aliases) * several for one in given)
        self.check_prompts(prompts + len(options.negative) * several)

    def check_texts(self, texts: Iterable[str]) -> None:
        """See that no text is too long.

        Raises:
            Refusal: one is.
        """
        longest = max(map(len, texts), default=0)
        if longest > self.limits.characters:
            raise Refusal(TOO_LARGE, f"a text of {longest} characters, and {self.limits.characters} at most")

    def check_prompts(self, prompts: int) -> None:
        """See that a request has no more prompts than it may.

        Raises:
            Refusal: it has.
        """
        if prompts > self.limits.prompts:
            raise Refusal(
                TOO_LARGE,
                f"{prompts} prompts (labels times templates), and {self.limits.prompts} at most",
                hint="name fewer labels, or a smaller template set",
            )


def _sets(own: Path | None) -> dict[str, TemplateSet]:
    """All that can be read; the others are warned of."""
    found = {}
    for name, path in sorted(templates.known_sets(own).items()):
        try:
            found[name] = templates.read(path)
        except TemplatesError as error:
            log.warning("%s: this template set is left out", error)
    return found


def _label(given: str | LabelBody) -> Label:
    if isinstance(given, str):
        return Label(given.strip())
    try:
        groups = levels(given.group)
    except ValueError as problem:
        raise LabelsError(f"label {given.name!r}: {problem}", hint="write animal, animal > dog, or a list") from problem
    return Label(
        given.name.strip(),
        aliases=tuple(text.strip() for text in given.aliases),
        prompts=tuple(text.strip() for text in given.prompts),
        groups=groups,
        threshold=given.threshold,
        weights=tuple(given.weights),
    )
