"""Text anchors as the image tower sees them, and which anchors are right or neither for a class."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

RIGHT, WRONG, NEITHER = 1, 0, -1
BALANCE = 0.5  # of the logarithm of how often a class or coarse word occurs


class Targets:
    """Anchors of C classes followed by K coarse words, in one matrix of C + K columns.

    ``relation`` [C, C + K]: RIGHT for the class itself and its parents, NEITHER for near-synonyms,
    broader or narrower classes and things that may be in the same picture, else WRONG.
    """

    def __init__(self, path: Path) -> None:
        state = torch.load(path, weights_only=False)
        self.classes: list[tuple[tuple[str, ...], tuple[str, ...]]] = state["classes"]
        self.coarse: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = state["coarse"]
        self.of_key: dict[str, list[int]] = state["of_key"]
        self.variants: list[torch.Tensor] = state["class_variants"] + state["coarse_variants"]
        self.count = len(self.classes)
        self.centres = F.normalize(torch.stack([v[0] + v.mean(0) for v in self.variants]), dim=-1)
        self.relation = self._relation()
        self.nouns = state["noun_vectors"].float()
        self.noun_close = self._noun_close()
        similar = self.centres @ self.centres[: self.count].T
        similar = similar[: self.count].masked_fill(self.relation[:, : self.count] != WRONG, -9.0)
        self.soft = torch.softmax(similar / 0.1, dim=1)
        self.class_offsets = torch.zeros(len(self.variants))
        self.coarse_offsets = torch.zeros(len(self.variants))
        self._pad()

    def _relation(self) -> torch.Tensor:
        words = {c[0]: {c[0], *c[1]} for c in self.coarse}
        compatible = {c[0]: set(c[2]) for c in self.coarse}
        column = {c[0]: self.count + i for i, c in enumerate(self.coarse)}
        table = torch.zeros(self.count, len(self.variants), dtype=torch.int8)
        above = [set().union(*(words[p] for p in parents)) if parents else set() for _, parents in self.classes]
        near = self.centres[: self.count] @ self.centres[: self.count].T > 0.75
        for a, (names, parents) in enumerate(self.classes):
            for b, (others, _) in enumerate(self.classes):
                if near[a, b] or set(names) & (set(others) | above[b]) or set(others) & above[a]:
                    table[a, b] = NEITHER
            for parent in parents:
                for word in compatible[parent]:
                    table[a, column[word]] = NEITHER
            for word, wordings in words.items():
                if set(names) & wordings or word in parents:
                    table[a, column[word]] = RIGHT
            table[a, a] = RIGHT
        return table

    def _noun_close(self) -> torch.Tensor:
        """[C, nouns]: vocabulary words too near to a class or its parents to serve as wrong answers."""
        centre_sim = self.centres @ self.nouns.T
        close = centre_sim[: self.count] > 0.3
        for i in range(self.count):
            parents = (self.relation[i, self.count :] == RIGHT).nonzero()[:, 0] + self.count
            if len(parents):
                close[i] |= (centre_sim[parents] > 0.5).any(0)
        return close

    def balance(self, frequency: torch.Tensor) -> None:
        """Have the loss make up for some classes [C] and their parents being more frequent than others.

        What is added to a logit in training need not be learnt: it is left out afterwards.
        """
        parents = (self.relation[:, self.count :] == RIGHT).float()
        common = frequency @ (parents / parents.sum(1, keepdim=True).clamp(min=1))
        for offsets, share in (
            (self.class_offsets[: self.count], frequency),
            (self.coarse_offsets[self.count :], common),
        ):
            log = share.clamp(min=1e-4).log()
            offsets.copy_(BALANCE * (log - log.mean()))

    def _pad(self) -> None:
        self.sizes = torch.tensor([len(v) for v in self.variants])
        self.padded = torch.zeros(len(self.variants), int(self.sizes.max()), self.centres.shape[1])
        for i, v in enumerate(self.variants):
            self.padded[i, : len(v)] = v

    def draw(self, noise: float) -> torch.Tensor:
        """Anchors [C + K, d] for one step: centres, leaning to a random wording, slightly noisy."""
        pick = (torch.rand(len(self.sizes)) * self.sizes).long()
        lean = self.padded[torch.arange(len(pick)), pick] * torch.rand(len(pick), 1)
        return F.normalize(self.centres + lean + noise * torch.randn_like(self.centres), dim=-1)


def anchor_loss(
    z: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, targets: Targets, nouns: int = 1024, noise: float = 0.02
) -> tuple[torch.Tensor, torch.Tensor]:
    """(fine, coarse) cross-entropies of unit image vectors z [n, d] with classes y [n].

    Fine: the class against all other anchors and random vocabulary words. Coarse: one random parent
    against everything that is not one.
    """
    anchors = targets.draw(noise)
    relation = targets.relation[y]
    logits = (z @ anchors.T) * scale
    picked = torch.randint(len(targets.nouns), (nouns,))
    noun_logits = (z @ targets.nouns[picked].T * scale).masked_fill(targets.noun_close[y][:, picked], -1e4)
    own = F.one_hot(y, relation.shape[1]).bool()
    fine = torch.cat(
        [(logits + targets.class_offsets).masked_fill((relation != WRONG) & ~own, -1e4), noun_logits], dim=1
    )
    fine_log = F.log_softmax(fine, dim=1)
    smooth = (targets.soft[y] * fine_log[:, : targets.count].clamp(min=-30)).sum(1)
    fine_loss = -(0.94 * fine_log.gather(1, y[:, None])[:, 0] + 0.06 * smooth).mean()

    parents = (relation == RIGHT) & ~own
    parents[:, : targets.count] = False
    some = parents.any(1)
    chosen = torch.multinomial(parents[some].float(), 1)
    others = (relation[some] != WRONG).scatter(1, chosen, False)
    coarse_log = F.log_softmax((logits + targets.coarse_offsets)[some].masked_fill(others, -1e4), dim=1)
    return fine_loss, -coarse_log.gather(1, chosen).mean()
