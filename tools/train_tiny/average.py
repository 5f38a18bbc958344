"""Stage 4c: the mean of image towers' weights, for one tower and another that went on from it.

``python -m tools.train_tiny.average --data DATA --work WORK --towers image.pt everyday.pt --out tower.pt``
"""

from __future__ import annotations

import torch

from .common import parser, save


def mean(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Mean of each tensor of state dicts with the same names and shapes; counters are the first one's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def main() -> None:
    """Write WORK/OUT: the mean of the running averages, and the steps and arguments of every tower."""
    made = parser(__doc__)
    made.add_argument("--towers", nargs="+", required=True, help="files in WORK, the first trained one first")
    made.add_argument("--out", default="tower.pt")
    args = made.parse_args()
    towers = [torch.load(args.work / name, weights_only=False) for name in args.towers]
    parts = [{"step": tower["step"], "args": tower["args"]} for tower in towers]
    save({"ema": mean([tower["ema"] for tower in towers]), "parts": parts}, args.work / args.out)


if __name__ == "__main__":
    main()
