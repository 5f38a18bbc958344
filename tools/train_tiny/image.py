"""Stage 4: the image tower, trained towards the fixed text anchors.

``python -m tools.train_tiny.image --data DATA --work WORK --images 3000000``

Continues from WORK/image.pt where that exists; every step is determined by (seed, step), so a
stopped run goes on as if it had not been stopped.
"""

from __future__ import annotations

import argparse
import copy
import math
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.optim import Muon

from . import parallel
from .augment import plain
from .common import DIM, MODEL, cosine, parser, save, wait_while
from .pictures import Sampler, Source, load_train, load_val
from .targets import Targets, anchor_loss


class Tower(torch.nn.Module):
    """timm's trunk with a linear layer to the joint space, and the logarithm of the logit scale."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.trunk = timm.create_model(name, num_classes=DIM, global_pool="avg")
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(14.0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, s, s] -> unit vectors [n, DIM]."""
        with torch.autocast("cpu", torch.bfloat16):
            z = self.trunk(x)
        return F.normalize(z.float(), dim=-1)


def make_optimizer(parameters: list[torch.nn.Parameter], kind: str, lr: float, decay: float) -> torch.optim.Optimizer:
    """Muon for the convolutions (AdamW for the rest), or AdamW for all."""
    matrices = [p for p in parameters if p.ndim >= 2]
    rest = [p for p in parameters if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": decay}]
    if rest:
        groups.append({"params": rest, "weight_decay": 0.0, **({"use_fallback": True} if kind == "muon" else {})})
    if kind == "muon":
        return Muon(groups, lr=lr, nesterov=True, fallback_lr_scale=min(1.0, 2e-3 / lr), betas=(0.9, 0.99))
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), foreach=True)


@torch.no_grad()
def follow(ema: Tower, model: Tower, rate: float) -> None:
    """Move the running average towards the model, batch statistics included."""
    for kept, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        kept.lerp_(new, rate) if kept.is_floating_point() else kept.copy_(new)


@torch.inference_mode()
def embed(model: torch.nn.Module, source: Source, rows: Any, size: int) -> torch.Tensor:
    """Float32 unit vectors [n, DIM] of the n ``rows`` of a source at ``size`` pixels; leaves the model in eval mode."""
    model.eval()
    return torch.cat([model(plain(source.pixels[rows[i : i + 250]], size)) for i in range(0, len(rows), 250)])


def validate(model: Tower, sources: dict[str, Source], targets: Targets, size: int) -> dict[str, float]:
    """Top-1 on each val set against the centres of its own classes (no text tower yet)."""
    found = {}
    for name, source in sources.items():
        classes = torch.from_numpy(source.classes).unique()
        z = embed(model, source, source.held, size)
        best = classes[(z @ targets.centres[classes].T).argmax(1)]
        found[name] = round((best == torch.from_numpy(source.classes[source.held])).float().mean().item(), 3)
    return found


def size_at(schedule: str, progress: float) -> int:
    """``64:0.5,96:1`` -> 64 for the first half, then 96."""
    for part in schedule.split(","):
        size, until = part.split(":")
        if progress < float(until):
            return int(size)
    return int(size)


def work(rank: int, args: argparse.Namespace, store: Path) -> None:
    """One of ``args.workers`` processes; rank 0 prints, validates and saves the shared state."""
    torch.set_num_threads(args.threads)
    parallel.join(rank, args.workers, store)
    torch.manual_seed(args.seed)
    targets = Targets(args.work / "anchors.pt")
    sampler = Sampler(load_train(args.work, targets), args.batch // args.workers, args.seed)
    targets.balance(sampler.frequency(targets.count))
    val = load_val(args.work, targets.of_key) if rank == 0 else {}
    model = Tower(MODEL["vision_cfg"]["timm_model_name"]).to(memory_format=torch.channels_last)
    if args.init:
        exported = load_file(args.init)
        model.trunk.load_state_dict(
            {n.removeprefix("visual.trunk."): v.float() for n, v in exported.items() if n.startswith("visual.trunk.")}
        )
        model.log_scale.data.copy_(exported["logit_scale"])
    ema = copy.deepcopy(model)
    parameters = list(model.parameters())
    owner = parallel.owners(parameters, args.workers)
    optimizer = make_optimizer(
        [p for p, o in zip(parameters, owner, strict=True) if o == rank], args.optimizer, args.lr, args.decay
    )
    path, mine = args.work / f"{args.name}.pt", args.work / f"{args.name}.optimizer{rank}.pt"
    step = 0
    if path.exists():
        state = torch.load(path, weights_only=False)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        step = state["step"]
        kept = torch.load(mine, weights_only=False) if mine.exists() else {"step": -1}
        if kept["step"] == step:
            optimizer.load_state_dict(kept["optimizer"])
        print("rank", rank, "continues at step", step, "optimizer", kept["step"], flush=True)

    def keep() -> None:
        save({"optimizer": optimizer.state_dict(), "step": step}, mine)
        if rank == 0:
            save({"model": model.state_dict(), "ema": ema.state_dict(), "step": step, "args": vars(args)}, path)
            seconds = time.monotonic()
            print(
                time.strftime("%T"),
                "step",
                step,
                "val",
                validate(ema, val, targets, 96),
                f"({time.monotonic() - seconds:.0f} s)",
                flush=True,
            )

    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    steps = args.images // args.batch
    begun = marked = saved = time.monotonic()
    sums = torch.zeros(2)
    while step < steps:
        wait_while(args.pause_file)
        progress = step / steps
        factor = cosine(progress) * min(1.0, (step + 1) / min(300, steps / 10))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * factor
        x, y = sampler(step * args.workers + rank, size_at(args.sizes, progress), args.smallest, args.blank)
        model.train()
        fine, coarse = anchor_loss(model(x), y, model.log_scale.clamp(max=4.0).exp(), targets)
        model.zero_grad(set_to_none=True)
        (fine + 0.5 * coarse).backward()
        now = time.monotonic()
        wish = torch.tensor(
            [float(now - saved > args.save_every), float(bool(stopping) or now - begun > args.stop_after)]
        )
        wish = parallel.mean_gradients(parameters, wish)
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        parallel.share(parameters, owner)
        step += 1
        if rank == 0:
            follow(ema, model, 1 - min(0.999, (1 + step) / (10 + step)))
        sums += torch.stack([fine, coarse]).detach()
        if step % 50 == 0 and rank == 0:
            rate = 50 * args.batch / (time.monotonic() - marked)
            print(
                f"{time.strftime('%T')} step {step}/{steps} size {x.shape[-1]} fine {sums[0] / 50:.3f} "
                f"coarse {sums[1] / 50:.3f} scale {model.log_scale.exp().item():.1f} {rate:.0f} images/s",
                flush=True,
            )
            sums.zero_()
            marked = time.monotonic()
        if wish[1] > 0:
            break
        if wish[0] > 0:
            keep()
            saved = time.monotonic()
    keep()


def main() -> None:
    """Train in ``--workers`` processes that meet at a file; WORK/NAME.pt holds the tower and its running average."""
    made = parser(__doc__)
    made.set_defaults(threads=1)
    made.add_argument("--workers", type=int, default=2, help="processes")
    made.add_argument("--images", type=int, required=True, help="pictures to show in all")
    made.add_argument("--sizes", default="64:0.5,80:0.85,96:1")
    made.add_argument("--batch", type=int, default=384, help="of all processes together")
    made.add_argument("--optimizer", default="muon", choices=["muon", "adamw"])
    made.add_argument("--lr", type=float, default=4e-3)
    made.add_argument("--decay", type=float, default=0.05)
    made.add_argument("--smallest", type=float, default=0.3, help="smallest crop area")
    made.add_argument("--blank", type=float, default=0.15, help="share of pictures with a blanked square")
    made.add_argument("--save-every", type=float, default=240, help="seconds")
    made.add_argument("--name", default="image")
    made.add_argument("--init", type=Path, default=None, help="exported weights (.safetensors) to start from")
    made.add_argument("--stop-after", type=float, default=math.inf, help="seconds")
    args = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (args, Path(folder) / "meet"), nprocs=args.workers)


if __name__ == "__main__":
    main()
