"""Stage 7: the text tower is tuned to the pictures, the image tower rests.

Image vectors of a part of the training pictures are computed once; then each step asks them
"which of all labels, or of some other words?" of the text tower itself, in random wordings and
templates, while the vocabulary keeps its targets. A second run with ``--shift`` first moves those
targets along with the labels that they are near to.

``python -m tools.train_tiny.joint --data DATA --work WORK --steps 400 --out joint_a.pt``
``python -m tools.train_tiny.joint --data DATA --work WORK --steps 400 --text joint_a.pt --shift``
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transformer import TextTransformer

from .augment import augment, crop_floor
from .common import CONTEXT, MODEL, cosine, parser, save, wait_while
from .image import Tower
from .pictures import Source, load_train
from .targets import RIGHT, WRONG, Targets
from .text import END, START, TextBatches, encode, make_tower, text_loss

MIX = (0.2, 0.2, 0.35, 0.1, 0.12, 0.03)


@torch.inference_mode()
def image_vectors(
    tower: Tower, sources: dict[str, Source], per_class: int, size: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(unit vectors [n, DIM], classes [n]) of mildly cropped training pictures.

    At most ``per_class`` pictures of each class of each set.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tower.eval()
    vectors, classes = [], []
    for source in sources.values():
        shuffled = rng.permutation(np.unique(source.train))
        label = source.classes[shuffled]
        rows = np.sort(np.concatenate([shuffled[label == c][:per_class] for c in np.unique(label)]))
        floor = crop_floor(source.pixels.shape[1], 0.7)
        for part in np.array_split(rows, max(1, len(rows) // 250)):
            x = augment(source.pixels[part], size, floor, 0.03).contiguous(memory_format=torch.channels_last)
            vectors.append(tower(x))
            classes.append(torch.from_numpy(source.classes[part]))
    return torch.cat(vectors), torch.cat(classes)


class LabelPrompts:
    """Random prompts for all classes and coarse words, the columns of ``Targets``."""

    def __init__(self, targets: Targets, batches: TextBatches) -> None:
        row = {text: i for i, text in enumerate(batches.texts)}
        listed = [c[0] for c in targets.classes] + [(c[0], *c[1]) for c in targets.coarse]
        self.tokens = [[batches.tokens[row[name]].tolist() for name in names] for names in listed]
        self.frames = batches.frames

    def __call__(self, rng: np.random.Generator) -> torch.Tensor:
        """Tokens [C + K, CONTEXT]."""
        out = torch.zeros(len(self.tokens), CONTEXT, dtype=torch.long)
        for i, wordings in enumerate(self.tokens):
            pick = 0 if rng.random() < 0.6 else int(rng.integers(len(wordings)))
            before, after = self.frames[int(rng.integers(len(self.frames)))]
            line = [START, *(before + wordings[pick] + after)[: CONTEXT - 2], END]
            out[i, : len(line)] = torch.tensor(line)
        return out


def label_loss(
    z: torch.Tensor,
    y: torch.Tensor,
    words: torch.Tensor,
    scale: torch.Tensor,
    targets: Targets,
    others: torch.Tensor,
    meant: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy of image vectors z [n, d] over all labels, plus one random parent's.

    ``others`` [m, d] are vocabulary words as the tower says them, wrong answers unless their targets
    ``meant`` [m, d] are near the class or one of its parents.
    """
    relation = targets.relation[y]
    own = F.one_hot(y, relation.shape[1]).bool()
    likeness = targets.centres @ meant.T
    near = likeness[: targets.count] > 0.35
    near |= (targets.relation == RIGHT).float() @ (likeness > 0.45).float() > 0
    beside = (z @ others.T * scale).masked_fill(near[y], -1e4)
    logits = z @ words.T * scale
    fine = torch.cat([logits.masked_fill((relation != WRONG) & ~own, -1e4), beside], dim=1)
    parents = (relation == RIGHT) & ~own
    parents[:, : targets.count] = False
    some = parents.any(1)
    chosen = torch.multinomial(parents[some].float(), 1)
    left_out = (relation[some] != WRONG).scatter(1, chosen, False)
    coarse = torch.cat([logits[some].masked_fill(left_out, -1e4), beside[some]], dim=1)
    return F.cross_entropy(fine, y) + 0.7 * F.cross_entropy(coarse, chosen[:, 0])


@torch.no_grad()
def shift_vocabulary(tower: TextTransformer, batches: TextBatches, seed: int, rounds: int = 6) -> float:
    """Move every word's target as its nearest labels have moved away from theirs; return the mean way."""
    rng = np.random.default_rng([seed, 11])
    labels = batches.members[0]
    said = torch.zeros(len(labels), batches.vectors.shape[1])
    for _ in range(rounds):
        lines = torch.zeros(len(labels), CONTEXT, dtype=torch.long)
        for i, row in enumerate(labels):
            before, after = batches.frames[int(rng.integers(len(batches.frames)))]
            line = [START, *(before + batches.tokens[row].tolist() + after)[: CONTEXT - 2], END]
            lines[i, : len(line)] = torch.tensor(line)
        said += encode(tower, lines)
    said = F.normalize(said, dim=-1)
    old = batches.vectors[labels].float()
    way = said - old
    out = torch.empty_like(batches.vectors)
    for at in range(0, len(out), 8192):
        v = batches.vectors[at : at + 8192].float()
        likeness = v @ old.T
        moved = torch.softmax(likeness * 20, dim=1) @ way
        out[at : at + 8192] = F.normalize(v + moved * likeness.amax(1, keepdim=True).clamp(0, 1), dim=-1).half()
    out[labels] = said.half()
    batches.vectors = out
    return float(way.norm(dim=1).mean())


def main() -> None:
    """Tune the text tower of ``--text`` to the image tower's vectors; ``--out`` holds it and its running average."""
    made = parser(__doc__)
    made.add_argument("--steps", type=int, default=800)
    made.add_argument("--batch", type=int, default=384, help="vocabulary texts a step")
    made.add_argument("--pictures", type=int, default=768, help="image vectors a step")
    made.add_argument("--per-class", type=int, default=120)
    made.add_argument("--lr", type=float, default=6e-4)
    made.add_argument("--weight", type=float, default=0.5, help="of the pictures' loss")
    made.add_argument("--image", default="image.pt")
    made.add_argument("--text", default="text.pt", help="file in WORK to start from")
    made.add_argument("--out", default="joint.pt")
    made.add_argument("--shift", action="store_true", help="first move all words as their nearest labels have moved")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    targets = Targets(args.work / "anchors.pt")
    image = Tower(MODEL["vision_cfg"]["timm_model_name"]).to(memory_format=torch.channels_last)
    image.load_state_dict(torch.load(args.work / args.image, weights_only=False)["ema"])
    z, y = image_vectors(
        image, load_train(args.work, targets), args.per_class, MODEL["vision_cfg"]["image_size"], args.seed
    )
    z, scale = z.clone(), image.log_scale.detach().exp()
    share = torch.bincount(y, minlength=targets.count)[y].float() ** -0.5  # large classes less than their number
    print(time.strftime("%T"), len(z), "image vectors", flush=True)
    batches = TextBatches(args.work / "text_targets.pt", MIX)
    prompts = LabelPrompts(targets, batches)
    tower = make_tower()
    given = torch.load(args.work / args.text, weights_only=False)
    tower.load_state_dict(given.get("ema", given["model"]))
    if args.shift:
        print("labels have moved by", round(shift_vocabulary(tower, batches, args.seed), 3), flush=True)
    ema = copy.deepcopy(tower)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    out: Path = args.work / args.out
    step, sums = 0, torch.zeros(3)
    if out.exists():
        state = torch.load(out, weights_only=False)
        tower.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    while step < args.steps:
        wait_while(args.pause_file)
        torch.manual_seed(args.seed * 7_000_003 + step)
        rng = np.random.default_rng([args.seed, 7, step])
        for group in optimizer.param_groups:
            group["lr"] = args.lr * cosine(step / args.steps) * min(1.0, (step + 1) / 50)
        tokens, target, rows = batches(args.batch, args.seed * 7_000_003 + step)
        said = encode(tower, tokens)
        kept, cosines = text_loss(said, target, rows)
        picked = torch.multinomial(share, args.pictures)
        aside = torch.from_numpy((batches.groups[rows.numpy()] >= 1) & (batches.groups[rows.numpy()] <= 3))
        asked = label_loss(
            z[picked], y[picked], encode(tower, prompts(rng)), scale, targets, said[aside], target[aside]
        )
        optimizer.zero_grad(set_to_none=True)
        (kept + args.weight * asked).backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for old, new in zip(ema.parameters(), tower.parameters(), strict=True):
                old.lerp_(new, 1 - min(0.98, step / (step + 10)))
        sums += torch.stack([kept.detach(), asked.detach(), cosines.mean()])
        if step % 50 == 0:
            print(
                time.strftime("%T"),
                f"step {step} kept {sums[0] / 50:.3f} asked {sums[1] / 50:.3f} cosine {sums[2] / 50:.3f}",
                flush=True,
            )
            sums.zero_()
        if step % 200 == 0 or step == args.steps:
            save(
                {
                    "model": tower.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                },
                out,
            )


if __name__ == "__main__":
    main()
