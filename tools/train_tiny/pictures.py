"""The decoded data sets: a sampler whose batches depend only on (seed, step), and held-out parts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .augment import augment, crop_floor, erase
from .tables import OFTEN, SHARES, SLICE_EVERY, SLICED, VAL_SETS
from .targets import Targets

GREY = {"miniplaces": 0.2}


@dataclass
class Source:
    """Pixels [n, side, side, 3] uint8, classes [n] of the joint table, rows for training and held out.

    Rows for training may be listed more than once, see ``tables.OFTEN``.
    """

    pixels: np.ndarray
    classes: np.ndarray
    train: np.ndarray
    held: np.ndarray


def load(work: Path, name: str, of_key: list[int], keys_of: str | None = None) -> Source:
    """One decoded set; ``of_key`` maps the labels of the training set ``keys_of`` to classes."""
    folder = work / "pixels"
    meta = json.loads((folder / f"{name}.json").read_text())
    keys = json.loads((folder / f"{keys_of or name}.json").read_text())["keys"]
    to_class = {key: of_key[i] for i, key in enumerate(keys)}
    classes = np.array([to_class[meta["keys"][i]] for i in meta["y"]])
    held = np.zeros(len(classes), bool)
    if name in SLICED:
        held[np.random.default_rng(7).permutation(len(classes))[::SLICE_EVERY]] = True
    if name in VAL_SETS:
        held[:] = True
    use = ~held
    use[json.loads((folder / "duplicates.json").read_text())["drop"].get(name, [])] = False
    return Source(np.load(folder / f"{name}.npy", mmap_mode="r"), classes, np.flatnonzero(use), np.flatnonzero(held))


def load_train(work: Path, targets: Targets) -> dict[str, Source]:
    """Every data set of SHARES by name, its training rows as often as OFTEN says."""
    times = np.array([max(OFTEN.get(parent, 1) for parent in ("", *parents)) for _, parents in targets.classes])
    found = {}
    for name in SHARES:
        source = load(work, name, targets.of_key[name])
        source.train = np.repeat(source.train, times[source.classes[source.train]])
        found[name] = source
    return found


def load_val(work: Path, of_key: dict[str, list[int]]) -> dict[str, Source]:
    """The val sets and the slices kept out of training."""
    found = {name: load(work, name, of_key[source], source) for name, source in VAL_SETS.items()}
    for name in SLICED:
        found[name] = load(work, name, of_key[name])
    return found


class Sampler:
    """Batches with fixed shares per source; every source is walked in seeded permutations."""

    def __init__(self, sources: dict[str, Source], batch: int, seed: int) -> None:
        self.sources, self.batch, self.seed = sources, batch, seed
        total = sum(SHARES.values())
        self.quota = {name: SHARES[name] / total * batch for name in sources}
        self.first = max(self.quota, key=lambda name: self.quota[name])

    def _start(self, name: str, step: int) -> int:
        if name == self.first:  # takes what the others leave
            return step * self.batch - sum(self._start(o, step) for o in self.sources if o != name)
        return math.floor(step * self.quota[name] + 1e-9)

    def frequency(self, classes: int) -> torch.Tensor:
        """How often each class occurs in a batch, [classes], summing to one."""
        found = np.zeros(classes)
        for name, source in self.sources.items():
            counts = np.bincount(source.classes[source.train], minlength=classes)
            found += self.quota[name] / self.batch * counts / counts.sum()
        return torch.from_numpy(found).float()

    def rows(self, name: str, step: int) -> np.ndarray:
        """Row numbers of one source for one step."""
        rows = self.sources[name].train
        out: list[int] = []
        at, end = self._start(name, step), self._start(name, step + 1)
        while at < end:
            turn, offset = divmod(at, len(rows))
            order = self._order(name, turn)
            take = min(end - at, len(rows) - offset)
            out.extend(rows[order[offset : offset + take]])
            at += take
        return np.sort(np.array(out, dtype=np.int64))

    def _order(self, name: str, turn: int) -> np.ndarray:
        cache = self.__dict__.setdefault("_orders", {})
        if cache.get(name, (None,))[0] != turn:
            rng = np.random.default_rng([self.seed, list(self.sources).index(name), turn])
            cache[name] = (turn, rng.permutation(len(self.sources[name].train)))
        return cache[name][1]

    def __call__(self, step: int, size: int, smallest: float, blank: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures [batch, 3, size, size], classes [batch]); seeds torch for the whole step."""
        torch.manual_seed(self.seed * 1_000_003 + step)
        xs, ys = [], []
        for name, source in self.sources.items():
            rows = self.rows(name, step)
            if len(rows):
                floor = crop_floor(source.pixels.shape[1], smallest)
                xs.append(augment(source.pixels[rows], size, floor, GREY.get(name, 0.06)))
                ys.append(torch.from_numpy(source.classes[rows]))
        x, y = torch.cat(xs), torch.cat(ys)
        return erase(x, blank).contiguous(memory_format=torch.channels_last), y
