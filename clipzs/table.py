"""Results for people: bars for each image, and counts per label at the end."""

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, BinaryIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from clipzs.labels import LEVELS
from clipzs.paths import printable
from clipzs.results import Result, Score

BAR_WIDTH = 24
LABEL_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_PICTURES = 16  # made at a time

Preview = Callable[[Sequence[str]], Sequence[str]]  # of paths, what shows their pictures


class TableWriter:
    """One block per image, as the batches come; a summary of several. Never wrapped, never cut.

    `streams` is False: in a file, the blocks without their summary would be half a document.
    """

    streams = False

    def __init__(
        self, stream: BinaryIO, *, colour: bool = False, cosine: bool = False, preview: Preview | None = None
    ) -> None:
        self.stream = stream
        self._preview = preview
        self.cosine = cosine
        self.counts: Counter[str] = Counter()
        self.scored: Counter[str] = Counter()
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.images = self.errors = 0
        self._buffer = io.StringIO()
        self._console = Console(
            file=self._buffer,
            force_terminal=colour,
            no_color=not colour,
            highlight=False,
            color_system="standard" if colour else None,
            width=10_000,
        )

    def write(self, batch: Sequence[Result]) -> None:
        """The blocks of one batch."""
        if self._preview is None:
            self._write(batch, repeat(""))
            return
        for start in range(0, len(batch), _PICTURES):
            some = batch[start : start + _PICTURES]
            self._write(some, self._preview([result.path for result in some]))

    def _write(self, batch: Sequence[Result], pictures: Iterable[str]) -> None:
        for result, picture in zip(batch, pictures, strict=False):
            self._line(Text(printable(result.path), style="bold"))
            self._buffer.write(picture)
            if result.error is not None:
                self.errors += 1
                self._line(Text(f"  {printable(result.error)}", style="red"))
                continue
            answers, group = result.answers, _rolled_up(result)
            shown = (*([group] if group else []), *result.scores)
            width = min(LABEL_WIDTH, max(cell_len(printable(one.label)) for one in shown))
            if group is not None:
                self._line(self._bar(group, width, best=True))
            if result.score is None:
                self._line(Text(f"  {printable(result.label or '')}", style="yellow"))
            for one in result.scores:
                self._line(self._bar(one, width, best=one.label in answers))
            self.images += 1
            self.counts.update(answers)
            scores = {one.label: one.score for one in (*result.scores, *(result.groups or ()))}
            for answer in answers:
                if answer in scores:
                    self.scored[answer] += 1
                    self.sums[answer] += scores[answer]
        self._flush()

    def close(self, run: Mapping[str, Any]) -> None:
        """Counts per label, most frequent first, when there was more than one image."""
        if self.images + self.errors < 2:
            return
        self._line(Text())
        width = max([len("label"), len("(not read)"), *(cell_len(printable(label)) for label in self.counts)])
        mean = "mean cosine" if self.cosine else "mean score"
        self._line(Text(f"{'label':<{width}}  {'images':>7}  {'share':>6}  {mean:>10}", style="bold"))
        for label, count in self.counts.most_common():
            mean_score = self._number(self.sums[label] / self.scored[label]) if self.scored[label] else ""
            name = set_cell_size(printable(label), width)
            self._line(Text(f"{name}  {count:>7}  {count / self.images:>6.1%}  {mean_score:>10}"))
        if self.errors:
            self._line(Text(f"{'(not read)':<{width}}  {self.errors:>7}", style="red"))
        self._flush()

    def _bar(self, one: Score, width: int, *, best: bool) -> Text:
        label = printable(one.label)
        padded = label if cell_len(label) > width else set_cell_size(label, width)
        line = Text(f"  {padded}  ", style="green" if best else "")
        line.append(_bar(max(0.0, one.score)), style="green" if best else "dim")
        line.append(f" {self._number(one.score):>6}")
        return line

    def _number(self, score: float) -> str:
        return f"{score:.3f}" if self.cosine else f"{score:.1%}"

    def _line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _flush(self) -> None:
        self.stream.write(self._buffer.getvalue().encode("utf-8", "backslashreplace"))
        self.stream.flush()
        self._buffer.seek(0)
        self._buffer.truncate()


def _rolled_up(result: Result) -> Score | None:
    """The group that is the answer, as `animal > dog`; None where the answer is none."""
    groups = [*(result.groups or ())]
    while groups and groups[0].label != result.label:
        del groups[0]
    # A group with more than half is in those that are likeliest at the coarser levels.
    return Score(LEVELS.join(one.label for one in reversed(groups)), groups[0].score) if groups else None


def _bar(share: float) -> str:
    eighths = round(min(1.0, share) * BAR_WIDTH * 8)
    full, part = divmod(eighths, 8)
    return (_EIGHTHS[8] * full + (_EIGHTHS[part] if part else "")).ljust(BAR_WIDTH)
