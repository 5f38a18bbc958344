"""Stage 1b: training pictures that are also in val or eval, by correlation of grey 16x16 thumbnails.

Writes WORK/pixels/duplicates.json; the training leaves out what is listed there.

``python -m tools.train_tiny.duplicates --data DATA --work WORK``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .augment import to_float
from .common import parser, write_json
from .tables import SHARES, VAL_SETS

ALIKE = 0.985


def thumbs(x: torch.Tensor) -> torch.Tensor:
    """[n, 3, h, w] -> centred unit vectors [n, 256] of grey 16x16 pictures."""
    grey = F.interpolate(x.mean(1, keepdim=True), (16, 16), mode="bilinear", antialias=True).flatten(1)
    return F.normalize(grey - grey.mean(1, keepdim=True), dim=1)


def decoded(path: Path) -> torch.Tensor:
    """``thumbs`` [n, 256] of a .npy file of uint8 pictures [n, side, side, 3], in file order."""
    pixels = np.load(path, mmap_mode="r")
    return torch.cat([thumbs(to_float(pixels[i : i + 1000])) for i in range(0, len(pixels), 1000)])


def photo(path: Path) -> torch.Tensor:
    """``thumbs`` [1, 256] of the centre square of one picture file."""
    picture = Image.open(path).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((64, 64), Image.Resampling.BOX)
    return thumbs(to_float(np.asarray(square)[None]))


def main() -> None:
    """Write WORK/pixels/duplicates.json: how many pictures of each val and eval set were found, rows to drop."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    folder = args.work / "pixels"
    held = {name: decoded(folder / f"{name}.npy") for name in VAL_SETS}
    for each in sorted(p for p in (args.data / "eval").iterdir() if p.is_dir()):
        held[each.name] = torch.cat([photo(p) for p in sorted(each.rglob("*.jpg"))])
    drop: dict[str, list[int]] = {}
    count = {}
    train = {name: decoded(folder / f"{name}.npy") for name in SHARES}
    for name, vectors in held.items():
        hit = torch.zeros(len(vectors), dtype=torch.bool)
        for source, others in train.items():
            for start in range(0, len(others), 10000):
                alike = others[start : start + 10000] @ vectors.T > ALIKE
                hit |= alike.any(0)
                drop.setdefault(source, []).extend((alike.any(1).nonzero()[:, 0] + start).tolist())
        count[name] = int(hit.sum())
    drop = {source: sorted(set(rows)) for source, rows in drop.items() if rows}
    write_json({"found": count, "drop": drop}, folder / "duplicates.json")
    print(count, {source: len(rows) for source, rows in drop.items()})


if __name__ == "__main__":
    main()
