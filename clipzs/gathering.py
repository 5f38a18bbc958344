"""Images through a model, their embeddings into whatever takes them, with a count of what could not be read."""

import signal
from collections.abc import Callable
from contextlib import closing

from clipzs.embedder import Embedder
from clipzs.embeddings import Put
from clipzs.interrupts import Interrupts
from clipzs.paths import Selection
from clipzs.results import Result
from clipzs.run import Passage


class Gathering(Passage):
    """Embed a selection. Images that cannot be read are counted and left out."""

    def __init__(self, embedder: Embedder, selection: Selection, put: Put) -> None:
        super().__init__([])
        self._embedder = embedder
        self._selection = selection
        self._put = put

    def __call__(self, advance: Callable[[int], None], put_off: Callable[[], None]) -> None:
        """Run to the end, to Ctrl-C (or its like), or to a failure; what was embedded is in the cache in every case.

        Args:
            advance: called with the number of images of each batch.
            put_off: called from a signal handler when Ctrl-C has to wait for the batch under way.

        Raises:
            ClipzsError: what made it fail.
        """
        with Interrupts(put_off) as interrupts:
            try:
                running = self._embedder.batches(self._selection.find(), before=interrupts.begin)
                with closing(running) as batches:
                    for batch in batches:
                        interrupts.begin()
                        advance(len(batch.names))
                        read = [name for name, error in zip(batch.names, batch.errors, strict=True) if error is None]
                        if read:
                            self._put(read, batch.vectors)
                        self._count(
                            [Result(name, error=error) for name, error in zip(batch.names, batch.errors, strict=True)]
                        )
                        interrupts.end()
            except KeyboardInterrupt:
                self.interrupted = interrupts.signal or signal.SIGINT
