"""Two processes with one thread each: on few cores they disturb each other (and others) less than
two threads that wait for each other in every operation. Each process owns, and updates, a part of
the parameters."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist


def join(rank: int, world: int, store: Path) -> None:
    """Meet the other processes at a file."""
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(hours=12)
    )


def owners(parameters: list[torch.nn.Parameter], world: int) -> list[int]:
    """A rank for each parameter, so that orthogonalising costs every rank about the same."""
    load = [0.0] * world
    found = [0] * len(parameters)

    def cost(p: torch.nn.Parameter) -> float:
        rows, columns = (len(p), p[0].numel()) if p.ndim >= 2 else (1, p.numel())
        return float(min(rows, columns) ** 2 * max(rows, columns))

    for i in sorted(range(len(parameters)), key=lambda i: -cost(parameters[i])):
        rank = load.index(min(load))
        found[i] = rank
        load[rank] += cost(parameters[i])
    return found


def mean_gradients(parameters: list[torch.nn.Parameter], extra: torch.Tensor) -> torch.Tensor:
    """Average all gradients over the ranks; return the sum over the ranks of ``extra``."""
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None] + [extra])
    dist.all_reduce(flat)
    at = 0
    for p in parameters:
        if p.grad is not None:
            p.grad.copy_(flat[at : at + p.numel()].view_as(p).div_(dist.get_world_size()))
            at += p.numel()
    return flat[at:]


@torch.no_grad()
def share(parameters: list[torch.nn.Parameter], owner: list[int]) -> None:
    """Give every rank the parameters that their owners have updated."""
    rank = dist.get_rank()
    flat = torch.cat(
        [(p if o == rank else torch.zeros_like(p)).reshape(-1) for p, o in zip(parameters, owner, strict=True)]
    )
    dist.all_reduce(flat)
    at = 0
    for p in parameters:
        p.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()
