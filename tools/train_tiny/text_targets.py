"""Stage 5: what the text tower shall say: a unit vector for every word, phrase and gloss.

Labels get the anchors that the image tower was trained towards. A vocabulary word is drawn to the
labels it is like, by the teacher's likeness or (everyday words) also by the hand-made lexicon.

``python -m tools.train_tiny.text_targets --data DATA --work WORK``
"""

from __future__ import annotations

import csv

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer

from .anchors import Glossary, Space
from .common import CONTEXT, parser, save
from .tables import HERE
from .targets import Targets
from .teacher import Teacher, read_list

ATTRACT, ATTRACT_PHRASE, ATTRACT_LEXICON, LEAN_LEXICON = 2.0, 1.0, 1.0, 1.0
GROUPS = ("label", "lexicon", "21k", "rest", "phr", "gloss")


def read_lexicon() -> dict[str, list[str]]:
    """word -> the trained words it leans to."""
    with open(HERE / "lexicon.tsv", encoding="utf-8", newline="") as handle:
        rows = [r for r in csv.reader(handle, delimiter="\t") if r and not r[0].startswith("#")]
    return {
        word.strip(): [p.strip() for p in parents.split(",")] for parents, words in rows for word in words.split(";")
    }


def label_vectors(targets: Targets) -> dict[str, torch.Tensor]:
    """name -> unit vector [DIM] for every name of classes and coarse words; coarse words win."""
    sums: dict[str, torch.Tensor] = {}
    listed = [c[0] for c in targets.classes] + [(c[0], *c[1]) for c in targets.coarse]
    for i, names in enumerate(listed):
        for j, name in enumerate(names):
            vector = targets.centres[i] if j == 0 else F.normalize(targets.centres[i] + targets.variants[i][j], dim=-1)
            weight = (4.0 if i >= targets.count else 1.0) * (2.0 if j == 0 else 1.0)
            sums[name] = sums.get(name, torch.zeros_like(vector)) + weight * vector
    return {name: F.normalize(vector, dim=-1) for name, vector in sums.items()}


def attract(vectors: torch.Tensor, centres: torch.Tensor, strength: float, sharpness: float = 20.0) -> torch.Tensor:
    """Pull unit vectors [n, DIM] towards a mean of the label centres that is weighted by likeness.

    The image tower knows pictures of labels only, so a word is best placed where its nearest labels are.
    """
    out = torch.empty_like(vectors)
    for at in range(0, len(vectors), 8192):
        v = vectors[at : at + 8192]
        nearest = F.normalize(torch.softmax(v @ centres.T * sharpness, dim=1) @ centres, dim=-1)
        out[at : at + 8192] = F.normalize(v + strength * nearest, dim=-1)
    return out


def main() -> None:
    """Write WORK/text_targets.pt: texts, their tokens (int32), vectors (float16 [n, DIM]) and groups [n]."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    targets = Targets(args.work / "anchors.pt")
    state = torch.load(args.work / "anchors.pt", weights_only=False)
    space, teacher, glossary = Space(state["mean"], state["matrix"]), Teacher(), Glossary(args.data, args.work)
    labels = label_vectors(targets)
    lexicon = {w: p for w, p in read_lexicon().items() if w not in labels}

    texts, vectors, groups = list(labels), [torch.stack(list(labels.values()))], [0] * len(labels)
    own = attract(space(glossary.mix(list(lexicon), teacher(list(lexicon)))), targets.centres, ATTRACT_LEXICON)
    lean = torch.stack([F.normalize(sum(labels[p] for p in parents), dim=-1) for parents in lexicon.values()])
    texts += list(lexicon)
    vectors.append(F.normalize(own + LEAN_LEXICON * lean, dim=-1))
    groups += [1] * len(lexicon)

    for group in range(2, len(GROUPS)):
        name = GROUPS[group]
        lines = read_list(args.data, name)
        raw = F.normalize(torch.from_numpy(np.load(args.work / "teacher" / f"{name}.npy")).float(), dim=-1)
        if name in ("21k", "rest"):
            known = [i for i, w in enumerate(lines) if w not in labels and w not in lexicon]
            lines, raw = [lines[i] for i in known], raw[known]
            found = attract(space(glossary.mix(lines, raw)), targets.centres, ATTRACT)
        else:
            found = attract(space(raw), targets.centres, ATTRACT_PHRASE) if name == "phr" else space(raw)
        texts += lines
        vectors.append(found)
        groups += [group] * len(lines)
    tokenizer = SimpleTokenizer(context_length=CONTEXT)
    tokens = [np.array(tokenizer.encode(text)[: CONTEXT - 2], np.int32) for text in texts]
    save(
        {"texts": texts, "tokens": tokens, "vectors": torch.cat(vectors).half(), "groups": np.array(groups)},
        args.work / "text_targets.pt",
    )
    print({GROUPS[g]: groups.count(g) for g in range(len(GROUPS))})


if __name__ == "__main__":
    main()
