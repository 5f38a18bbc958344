"""Where a model computes and why, and devices that are not trusted before they have shown to be right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipzs.agreement import VerifiedEncoder
from clipzs.devices import chosen_device, chosen_precision, device_and_reason
from clipzs.errors import DeviceError
from clipzs.resolve import resolve
from clipzs.towers import OpenClipEncoder

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_a_device_that_was_named_is_taken_because_it_was_named():
    assert device_and_reason("cpu") == ("cpu", "asked for")


def test_hidden_gpus_are_the_reason_for_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device_and_reason("auto") == ("cpu", "CUDA_VISIBLE_DEVICES hides all GPUs")


@WITHOUT_GPU
def test_verbose_says_which_device_and_why(run, cat):
    result = run("classify", cat, "--labels", "cat,dog", "--model", "tiny", "--verbose")
    device, reason = device_and_reason("auto")
    assert device == "cpu"
    assert f"note: device cpu: {reason}\n" in result.stderr


@WITHOUT_GPU
@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_device_this_machine_lacks_is_refused_with_what_to_do(name):
    with pytest.raises(DeviceError, match=f"device {name} is not available") as caught:
        chosen_device(name)
    assert "--device cpu" in caught.value.hint


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "mps:0", "cpu:1", ""])
def test_an_unknown_device_is_refused_with_those_there_are(name):
    with pytest.raises(DeviceError, match="unknown device") as caught:
        device_and_reason(name)
    assert caught.value.hint == "--device takes auto, cpu, cuda, cuda:N or mps"


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [("auto", "cpu", "fp32"), ("auto", "cuda:1", "fp16"), ("auto", "mps", "fp32"), ("bf16", "cpu", "bf16")],
)
def test_precision_follows_the_device_unless_it_is_named(name, device, expected):
    assert chosen_precision(name, device) == expected


def encoder(folder: Path, precision: str = "fp32") -> OpenClipEncoder:
    return OpenClipEncoder(resolve(f"local-dir:{folder}"), device="cpu", precision=precision)


def verified(own: OpenClipEncoder, reference: OpenClipEncoder) -> VerifiedEncoder:
    return VerifiedEncoder(own, lambda: reference, size=reference.spec.preprocess.size)


@pytest.fixture
def altered(folder, tmp_path):
    """The folder of the model `vit` in which one tower has been changed."""

    def change(tower: str, by: float) -> Path:
        state = load_file(folder("vit") / "open_clip_model.safetensors")
        key = {"image": "visual.proj", "text": "text_projection"}[tower]
        generator = torch.Generator().manual_seed(0)
        state[key] = state[key] * (1 + by * torch.randn(state[key].shape, generator=generator))
        (tmp_path / "altered").mkdir()
        (tmp_path / "altered" / "open_clip_config.json").write_bytes(
            (folder("vit") / "open_clip_config.json").read_bytes()
        )
        save_file(state, tmp_path / "altered" / "open_clip_model.safetensors")
        return tmp_path / "altered"

    return change


PIXELS = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_device_that_agrees_with_the_cpu_computes(folder, precision):
    own, reference = encoder(folder("vit"), precision), encoder(folder("vit"))
    both = verified(own, reference)
    tokens = both.tokenize(["a cat", "a dog"])
    np.testing.assert_array_equal(both.encode_images(PIXELS), own.encode_images(PIXELS))
    np.testing.assert_array_equal(both.encode_texts(tokens), own.encode_texts(tokens))
    assert (both.engine, both.device, both.precision) == ("torch", "cpu", precision)
    assert (both.logit_scale, both.logit_bias) == (reference.logit_scale, reference.logit_bias)


@pytest.mark.parametrize(("broken", "sound"), [("image", "text"), ("text", "image")])
def test_a_device_that_computes_otherwise_is_refused_and_only_for_what_is_wrong(folder, altered, broken, sound):
    both = verified(encoder(altered(broken, 0.2)), encoder(folder("vit")))
    calls = {
        "image": lambda: both.encode_images(PIXELS),
        "text": lambda: both.encode_texts(both.tokenize(["a cat"])),
    }
    for _ in range(2):
        with pytest.raises(DeviceError, match=f"computes other embeddings .* of the {broken} tower in fp32") as caught:
            calls[broken]()
        assert caught.value.hint == "use --device cpu"
    assert np.linalg.norm(calls[sound](), axis=1) == pytest.approx(1, abs=1e-5)


def test_numbers_that_are_not_finite_do_not_agree(folder, altered):
    both = verified(encoder(altered("image", float("inf"))), encoder(folder("vit")))
    with pytest.raises(DeviceError, match="cosine nan"):
        both.encode_images(PIXELS)
