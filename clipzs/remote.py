"""An embedder whose model runs in a server of clipzs.

Images are read, decoded and looked up in the cache here, with all options that there are for that. The server is asked
what its model says of their pixels, and of texts. All that is done with this is done here, too: so the results are
those of a model in this process, to the byte.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from clipzs.embedder import Embedder
from clipzs.encoder import Computes, Progress
from clipzs.errors import ClipzsError, ModelUnavailable, ServerProblem
from clipzs.modelspec import ModelSpec
from clipzs.options import AUTO, Options, names_a_model
from clipzs.resolve import of_anyone
from clipzs.score import Array
from clipzs.store import LabelEmbedding

if TYPE_CHECKING:
    from clipzs.encoder import Pixels
    from clipzs.served import Served

log = logging.getLogger("clipzs")


def embedder_for(options: Options, *, progress: Progress | None = None, compiling: Progress | None = None) -> Embedder:
    """The one that the options ask for; arguments as of `Embedder`."""
    kind = Embedder if options.server is None else RemoteEmbedder
    return kind(options, progress=progress, compiling=compiling)


class RemoteEmbedder(Embedder):
    """An `Embedder` that asks a running server, and computes here where none has the model or the server has gone.

    No server is looked for before it is needed.
    """

    def __init__(
        self, options: Options, *, progress: Progress | None = None, compiling: Progress | None = None
    ) -> None:
        """As of `Embedder`."""
        super().__init__(options, progress=progress, compiling=compiling)
        self._own = Embedder(options, progress=progress, compiling=compiling)
        self._lost = False

    @cached_property
    def _served(self) -> "Served | None":
        """None where the model runs here from the start."""
        from clipzs.served import found  # which takes a while, and is for those that ask for a server

        return found(self.options, lambda: self._own.model)

    @cached_property
    def model(self) -> ModelSpec:
        """As of `Embedder`.

        Raises:
            ServerProblem: the server refuses, or has no such model.
        """
        return self._own.model if self._served is None else self._served.model

    @property
    def encoder(self) -> Computes:
        """As of `Embedder`; errors as of `model`."""
        return self._own.encoder if self._served is None else self._served.facts

    def compile(self) -> None:
        """As of `Embedder`, where the model runs here."""
        if self._served is None or self._lost:
            self._own.compile()

    def _averaged(
        self, prompts: Sequence[Sequence[str]], weights: Sequence[Sequence[float]] = ()
    ) -> tuple[list[LabelEmbedding], int]:
        if self._served is not None and not self._lost:
            try:
                embedded, encoded = self._served.labels(prompts, weights, self._progress)
                self.finite(np.stack([one.vector for one in embedded]))
                return embedded, encoded
            except ServerProblem as problem:
                self._go_on_alone(self._served, problem)
        return self._own._averaged(prompts, weights)

    def _encode(self, before: Callable[[], object], pixels: "Pixels") -> Array:
        if self._served is not None and not self._lost:
            before()
            try:
                return self.finite(self._served.images(pixels))
            except ServerProblem as problem:
                self._go_on_alone(self._served, problem)
        return self._own._encode(before, pixels)

    def _go_on_alone(self, served: "Served", problem: ServerProblem) -> None:
        """From now on compute here.

        Raises:
            ClipzsError: the model is not here, or would give other numbers.
        """
        self._lost = True
        model, precision = served.model, served.facts.precision
        if self.options.server != AUTO and not names_a_model(self.options):
            if of_anyone(model.name):  # which no server may choose
                raise ClipzsError(f"{problem}; the rest needs {model.name}, which was not asked for here") from problem
            self._own = Embedder(
                replace(self.options, model=model.name), progress=self._progress, compiling=self._compiling
            )
        own = self._own
        try:
            same = own.model.digest == model.digest and own.encoder.precision == precision
        except ModelUnavailable as error:
            raise ClipzsError(f"{problem}; the rest needs {model.name}, which is not on this machine") from error
        if not same:
            raise ClipzsError(f"{problem}; this process would go on with other weights of {model.name}, or not in "
                              f"{precision}") from problem  # fmt: skip
        log.warning("%s: computing the rest in this process", problem)
