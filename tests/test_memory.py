"""Memory that runs out: smaller batches, the same results in the same order, and one line that says so."""

import json
import logging
import subprocess
import sys

import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from clipzs.memory import Halving, OutOfMemory, ran_out

# One process: everything once in small batches, then in large ones with room for so many more bytes than are taken.
# What is there by then, such as the stacks of threads, is there; only the batches are too large.
LIMITED = """
import json, logging, resource, sys
import numpy as np
from clipzs import Classifier

model, engine = sys.argv[1:]
lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("clipzs").addHandler(handler)
noise = np.random.default_rng(0)
pictures = [noise.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(160)]
texts = [f"{n} is " + "very " * 60 + "small" for n in range(128)]

def made(size):
    return Classifier(["cat", "dog"], model=model, engine=engine, score="cosine", image_cache=False, batch_size=size)

def scores(classifier):
    return [(r.path, r.error, *sorted((s.label, s.score) for s in r.scores)) for r in classifier.classify(pictures)]

small, large = made(16), made(160)
tokens = small.encoder.tokenize(texts)
expected = scores(small), [small.encoder.encode_texts(tokens[n : n + 16]).tolist() for n in range(0, 128, 16)]
large.encoder.encode_texts(tokens[:1])

def limited(room, work):
    taken = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + room * 2**20, before[1]))
    try:
        return work()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

found = limited(25, lambda: large.encoder.encode_texts(tokens)).tolist(), limited(120, lambda: scores(large))
print(json.dumps({"images": [expected[0], found[1]], "texts": [sum(expected[1], []), found[0]], "lines": lines,
                  "engine": large.encoder.engine}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_what_does_not_fit_at_once_is_computed_in_smaller_batches(tmp_path, engine):
    vision = {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32, "head_width": 32}
    text = {**models.TEXT, "width": 64, "layers": 1, "mlp_ratio": 32}
    models.write_config(tmp_path, {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text})
    save_file(models.random_state(f"local-dir:{tmp_path}"), tmp_path / "open_clip_model.safetensors")
    command = [sys.executable, "-c", LIMITED, f"local-dir:{tmp_path}", engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["engine"] == engine
    expected, found = answer["images"]
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    labels, scores = ([[pair[k] for pair in one[2:]] for one in found] for k in (0, 1))
    assert labels == [[pair[0] for pair in one[2:]] for one in expected]
    np.testing.assert_allclose(scores, [[pair[1] for pair in one[2:]] for one in expected], rtol=0, atol=1e-6)
    assert np.ptp(scores, axis=0).min() > 1e-4, "the images score alike: their order shows nothing"
    np.testing.assert_allclose(answer["texts"][1], answer["texts"][0], rtol=0, atol=1e-6)
    for what in ("images", "texts"):
        assert [line for line in answer["lines"] if line.startswith("out of memory") and what in line]


@settings(deadline=None, max_examples=8)  # each failure collects garbage, as it must
@given(capacity=st.integers(1, 40), rows=st.lists(st.integers(1, 64), min_size=1, max_size=4))
def test_batches_are_halved_until_they_fit_and_no_more_are_too_large(capacity, rows):
    released, sizes = [], []

    def work(part: slice) -> np.ndarray:
        size = part.stop - part.start
        sizes.append(size)
        if size > capacity:
            raise OutOfMemory("cuda")
        return np.arange(part.start, part.stop, dtype=np.float32)[:, None]

    halving = Halving("images", lambda: released.append(1))
    for count in rows:
        np.testing.assert_array_equal(halving(work, count)[:, 0], np.arange(count))
    failed = [size for size in sizes if size > capacity]
    assert failed == sorted(set(failed), reverse=True), "a size that had failed was tried again"
    assert len(released) == len(failed)


def test_memory_that_is_not_enough_for_one_is_an_error_with_a_hint(caplog):
    def work(part: slice) -> np.ndarray:
        raise OutOfMemory("cuda:1")

    with caplog.at_level(logging.WARNING, "clipzs"), pytest.raises(OutOfMemory) as caught:
        Halving("images", lambda: None)(work, 32)
    assert str(caught.value) == "not enough memory on the device cuda:1 to compute"
    assert caught.value.hint == "use a smaller model, or --device cpu"
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB, max allowed: 9.07 GB)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("Check 'ptr' failed at cpu_memory.cpp:257: Failed to allocate 9 bytes of memory"), True),
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), False),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), False),
        (OSError(28, "No space left on device"), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_only_a_lack_of_memory_is_taken_for_one(error, expected):
    assert ran_out(error) is expected
