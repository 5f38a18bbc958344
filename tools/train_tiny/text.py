"""Stage 6: a small open_clip text tower learns the targets, in many prompt templates.

``python -m tools.train_tiny.text --data DATA --work WORK --steps 6000``
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel

from .common import CONTEXT, DIM, MODEL, cosine, parser, save, wait_while
from .prompts import PHRASE_PREFIX, TRAINING

COMMON = {2: 6, 3: 2}  # further times that common words of 21k and rest are listed
START, END = 49406, 49407
MIX = (0.27, 0.10, 0.30, 0.13, 0.15, 0.05)  # label, lexicon, 21k, rest, phr, gloss


def make_tower() -> TextTransformer:
    """The text tower of ``common.MODEL``."""
    cfg = MODEL["text_cfg"]
    return TextTransformer(
        context_length=CONTEXT,
        vocab_size=cfg["vocab_size"],
        width=cfg["width"],
        heads=cfg["heads"],
        layers=cfg["layers"],
        output_dim=DIM,
    )


def encode(tower: TextTransformer, tokens: torch.Tensor, parts: int = 4) -> torch.Tensor:
    """Unit vectors [n, DIM] of tokens [n, <= CONTEXT], in parts of like length to save on padding.

    The towers' causal mask makes what follows the end token (the largest number) irrelevant.
    """
    ends = tokens.argmax(1)
    order = ends.argsort()
    found = []
    embedded = tower.token_embedding(tokens)
    for rows in order.chunk(parts):
        length = int(ends[rows].max()) + 1
        # For sequences this short plain products are faster on a CPU than the blocked kernel.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            x = embedded[rows, :length] + tower.positional_embedding[:length]
            x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
            x = tower.ln_final(x[torch.arange(len(rows)), ends[rows]])
            found.append(x @ tower.text_projection)
    return F.normalize(torch.cat(found).float()[order.argsort()], dim=-1)


class TextBatches:
    """Token batches whose content depends only on (seed, step)."""

    def __init__(self, path: Path, mix: tuple[float, ...] = MIX) -> None:
        state = torch.load(path, weights_only=False)
        self.texts: list[str] = state["texts"]
        self.tokens: list[np.ndarray] = state["tokens"]
        self.vectors: torch.Tensor = state["vectors"]
        self.groups: np.ndarray = state["groups"]
        self.members = [np.flatnonzero(self.groups == g) for g in range(len(mix))]
        for group in (2, 3):  # words that are one token of their own are common words: more of them
            common = [row for row in self.members[group] if len(self.tokens[row]) == 1]
            self.members[group] = np.concatenate([self.members[group], np.repeat(common, COMMON[group])])
        self.mix = mix
        coder = SimpleTokenizer(context_length=CONTEXT)
        self.frames = [tuple(coder.encode(part.strip()) for part in t.split("{}")) for t in TRAINING]
        self.prefixes = [coder.encode(p.strip()) for p in PHRASE_PREFIX]

    def __call__(self, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(tokens [size, longest], targets [size, DIM], row numbers [size])."""
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(size, self.mix)
        rows = np.concatenate([rng.choice(m, c) for m, c in zip(self.members, counts, strict=True)])
        lines = []
        for row, frame, coin in zip(rows, rng.integers(len(self.frames), size=size), rng.random(size), strict=True):
            body = self.tokens[row].tolist()
            if self.groups[row] < 4:
                before, after = self.frames[frame]
                body = before + body + after
            elif coin < 0.3:
                body = self.prefixes[int(coin * 10 * len(self.prefixes)) % len(self.prefixes)] + body
            lines.append([START, *body[: CONTEXT - 2], END])
        out = torch.zeros(size, max(map(len, lines)), dtype=torch.long)
        for i, line in enumerate(lines):
            out[i, : len(line)] = torch.tensor(line)
        return out, self.vectors[rows].float(), torch.from_numpy(rows)


@torch.no_grad()
def start_as_word_average(tower: TextTransformer, batches: TextBatches) -> None:
    """Let each token begin at the mean target of the words it is part of, so that training starts warm."""
    width = tower.token_embedding.weight.shape[1]
    vocabulary = tower.token_embedding.weight
    sums, counts = torch.zeros(len(vocabulary), width), torch.zeros(len(vocabulary), 1)
    for group, weight in ((0, 8.0), (1, 8.0), (2, 1.0), (3, 0.5)):
        for row in batches.members[group]:
            tokens = torch.from_numpy(batches.tokens[row].astype(np.int64)).unique()
            share = weight / len(tokens) ** 2
            sums[tokens] += share * batches.vectors[row, :width].float()
            counts[tokens] += share
    used = counts[:, 0] > 0
    vocabulary[used] = 0.5 * sums[used] / counts[used]
    tower.text_projection.mul_(0.1)
    tower.text_projection[:, :width] += torch.eye(width)


def text_loss(z: torch.Tensor, target: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, mean cosine): direct distance plus the batch's similarity structure."""
    cosines = (z * target).sum(1)
    same = (rows[:, None] == rows[None]) & ~torch.eye(len(rows), dtype=torch.bool)
    wanted = torch.softmax((target @ target.T * 20).masked_fill(same, -1e4), dim=1)
    given = F.log_softmax((z @ target.T * 20).masked_fill(same, -1e4), dim=1)
    return 3 * (1 - cosines).mean() - 0.3 * (wanted * given.clamp(min=-50)).sum(1).mean(), cosines.detach()


def main() -> None:
    """Train the text tower, or go on from WORK/text.pt, and save it there."""
    made = parser(__doc__)
    made.add_argument("--steps", type=int, default=6000)
    made.add_argument("--batch", type=int, default=512)
    made.add_argument("--lr", type=float, default=2e-3)
    made.add_argument("--save-every", type=float, default=120, help="seconds")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    batches = TextBatches(args.work / "text_targets.pt")
    tower = make_tower()
    start_as_word_average(tower, batches)
    table = [tower.token_embedding.weight]
    others = [p for n, p in tower.named_parameters() if not n.startswith("token_embedding")]
    optimizer = torch.optim.AdamW(
        [{"params": table, "weight_decay": 0.0, "times": 2.0}, {"params": others, "weight_decay": 0.01, "times": 1.0}],
        lr=args.lr,
        betas=(0.9, 0.99),
        fused=True,
    )
    path, step = args.work / "text.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=False)
        tower.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    begun = saved = time.monotonic()
    sums, counts = np.zeros(len(MIX)), np.zeros(len(MIX))
    while step < args.steps:
        wait_while(args.pause_file)
        factor = cosine(step / args.steps) * min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * group["times"] * factor
        tokens, target, rows = batches(args.batch, args.seed * 1_000_003 + step)
        loss, cosines = text_loss(encode(tower, tokens), target, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        step += 1
        np.add.at(sums, batches.groups[rows.numpy()], cosines.numpy())
        np.add.at(counts, batches.groups[rows.numpy()], 1)
        if step % 200 == 0:
            print(
                time.strftime("%T"),
                f"step {step} loss {loss.item():.3f} cosines",
                np.round(sums / counts.clip(1), 3),
                f"{200 * args.batch / (time.monotonic() - begun):.0f} texts/s",
                flush=True,
            )
            begun, sums[:], counts[:] = time.monotonic(), 0, 0
        if time.monotonic() - saved > args.save_every or step == args.steps:
            save({"model": tower.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)
            saved = time.monotonic()
    print("done", step, math.floor(args.batch * step), "texts")


if __name__ == "__main__":
    main()
