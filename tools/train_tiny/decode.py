"""Stage 1: parquet files of WebP pictures -> uint8 arrays that training can map into memory.

``python -m tools.train_tiny.decode --data DATA --work WORK``
"""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from .common import parser
from .tables import SHARES, VAL_SETS


def decode(source: Path, target: Path) -> None:
    """Write ``target.npy`` [n, side, side, 3] and ``target.json``."""
    table = pq.read_table(source)
    labels = table["label"].to_pylist()
    pictures = [Image.open(io.BytesIO(raw)).convert("RGB") for raw in table["image"].to_pylist()]
    side = Counter(picture.size[0] for picture in pictures).most_common(1)[0][0]
    pixels = np.stack([np.asarray(p if p.size == (side, side) else p.resize((side, side))) for p in pictures])
    keys = sorted(set(labels))
    order = {key: i for i, key in enumerate(keys)}
    np.save(target.with_suffix(".npy"), pixels)
    target.with_suffix(".json").write_text(json.dumps({"keys": keys, "y": [order[x] for x in labels]}))
    print(target.name, pixels.shape, len(keys), "labels", flush=True)


def main() -> None:
    """Decode every training and val set into WORK/pixels."""
    args = parser(__doc__).parse_args()
    out = args.work / "pixels"
    out.mkdir(parents=True, exist_ok=True)
    for part, names in (("train", SHARES), ("val", VAL_SETS)):
        for name in names:
            decode(args.data / part / f"{name}.parquet", out / name)


if __name__ == "__main__":
    main()
