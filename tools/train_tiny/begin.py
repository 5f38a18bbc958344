"""Stage 3b, optional: an exported model as the beginning of the image tower.

The last layer is mapped from that model's joint space to the one of WORK/anchors.pt, by the words that
both know. ``image --init WORK/begin.safetensors`` goes on from there.

``python -m tools.train_tiny.begin --data DATA --work WORK --product FOLDER``
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import export
from .common import NAME, parser
from .evaluate import text_vectors
from .targets import Targets
from .text_targets import label_vectors

NOUNS, WEIGHT, RIDGE = 6000, 8.0, 10.0  # labels count WEIGHT times as much as vocabulary words


def change_of_space(given: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The matrix [d, DIM] that takes rows of ``given`` [n, d] nearest to ``wanted`` [n, DIM] (ridge regression)."""
    weighted = given * weights[:, None]
    return torch.linalg.solve(weighted.T @ given + RIDGE * torch.eye(given.shape[1]), weighted.T @ wanted)


def main() -> None:
    """Write WORK/begin.safetensors: the product's image tower, its last layer in the space of the anchors."""
    made = parser(__doc__)
    made.add_argument("--product", type=Path, required=True, help="folder of the exported model")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    targets = Targets(args.work / "anchors.pt")
    labels = label_vectors(targets)
    nouns = torch.load(args.work / "anchors.pt", weights_only=False)["nouns"]
    some = torch.randperm(len(nouns), generator=torch.Generator().manual_seed(args.seed))[:NOUNS].tolist()
    model, _, tokenizer = export.load(args.product)
    given = text_vectors(model, tokenizer, [*labels, *(nouns[i] for i in some)]).clone()
    wanted = torch.cat([torch.stack(list(labels.values())), targets.nouns[some]])
    weights = torch.tensor([WEIGHT] * len(labels) + [1.0] * len(some))
    change = change_of_space(given, wanted, weights)
    near = torch.cosine_similarity(given @ change, wanted)
    print(f"mean cosine of labels {near[: len(labels)].mean():.3f}, of other words {near[len(labels) :].mean():.3f}")
    state = {n: v for n, v in load_file(args.product / f"{NAME}.safetensors").items() if n.startswith("visual.")}
    last = "visual.trunk.head.fc"
    state[f"{last}.weight"] = (change.T @ state[f"{last}.weight"].float()).contiguous()
    state[f"{last}.bias"] = (change.T @ state[f"{last}.bias"].float()).contiguous()
    state["logit_scale"] = model.logit_scale.detach().clone()
    save_file(state, args.work / "begin.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
