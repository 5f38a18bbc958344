"""Chinese-CLIP gives the numbers transformers gives, from checkpoints of either make; nothing of it is guessed."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXAMPLES, ROOT
from fakehub import COMMIT, Repositories, lay_out
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from clipzs import chinese
from clipzs.compiled import available
from clipzs.encoders import encoder_for
from clipzs.errors import ModelError
from clipzs.filling import unfilled
from clipzs.resolve import resolve
from clipzs.savedconfig import preprocess
from clipzs.tokenizers import restored, tokenizer_for
from clipzs.towers import normalise

PHOTOS = [EXAMPLES / f"{name}.jpg" for name in ("cat", "coffee", "rocket", "temple")]
LABELS = ("猫", "一杯咖啡", "火箭", "山上的希腊神庙 Temple")
TEMPLATE = "一张<>的照片"
TOLERANCE = 1e-5
SIZE = 64
TEXT = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
VISION = {
    "hidden_size": 80,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 16,
}
BASE = "OFA-Sys/chinese-clip-vit-base-patch16"

NASTY = (
    "", " ", "\n", "\t a \r\n b \x0b\x0c", "\x00\x01\x1b[31mred\x7f", "\x85\xa0\u200b\u00ad\ufeff\u2028\u3000\ufffd",
    "一张猫的照片", "一 张\t猫 的照片。", "这是 photo 吗？！…——", "１２３，Ａｂｃ！", "ｱｲｳ ア゙ が", "㐀𠀀𪜀豈⺀",
    "“引号”‘和’《书》", "[cls]猫[sep]",
    "A Photo of a CAT!", "don't", "C++ & C#", "3.5 inch 2,048", "snow_leopard", "Größe STRASSE ẞ İ ıI ΣΑΣ", "naïve",
    "фото КОШКИ", "고양이 사진", "صورة قطة", "बिल्ली", "ภาพถ่ายแมว", "😀👍🏽 👩\u200d👩\u200d👧 🇩🇪 1️⃣", "½ ² Ⅷ ٣ 𝒳 ﷽",
    "[CLS] 猫[SEP]狗[PAD][UNK][MASK] [cls] [ SEP ]", "##a ## a##b", "猫" * 49, "猫" * 50, "猫" * 51, "photo " * 60,
    "a" * 100, "a" * 101, "a" * 300, "x\u0300\u0301" * 30, "cafe\u0301 café", "&amp; &lt;b&gt; &#x1F600;", "schÃ¶n â€œ",
    "\U000e0041 \U0010ffff",
)  # fmt: skip


# Random models


def vocabulary() -> list[str]:
    """Special tokens, characters, pieces and a few words; the same word twice, as in careless vocabularies."""
    chinese_texts = (ROOT / "prompts" / "zh.yaml").read_text(encoding="utf-8") + "".join(LABELS) + "狗，。！？高级感"
    characters = sorted({char for char in chinese_texts if "\u4e00" <= char <= "\u9fff" or char in "，。！？"})
    ascii_ones = [chr(number) for number in range(33, 127) if not chr(number).isupper()]
    pieces = [f"##{char}" for char in [*"abcdefghijklmnopqrstuvwxyz0123456789猫", "ph", "oto"]]
    words = ["photo", "cat", "temple", "hill", "ss", "[unused1]", "cat", "é", "…"]
    return ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *ascii_ones, *pieces, *words]


def write_vocabulary(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")


def of_transformers(**changes: dict[str, Any]) -> Any:
    """A ChineseCLIPModel whose images and texts differ widely, and of which nothing is at its initial value."""
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    text = {"vocab_size": len(vocabulary()) + 3, "max_position_embeddings": 60, **TEXT, **changes.get("text", {})}
    vision = {**VISION, **changes.get("vision", {})}
    torch.manual_seed(1)
    model = ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    for name, parameter in model.named_parameters():
        if name == "logit_scale":
            parameter.data.fill_(math.log(37.0))
        elif parameter.ndim > 1:
            parameter.data.normal_(std=0.2)
        else:
            parameter.data.normal_(mean=1.0 if re.search(r"norm.*weight", name.lower()) else 0.0, std=0.1)
    return model


def as_ofa_saves(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """transformers' tensors under the names of OFA-Sys' own code, with what else its checkpoints hold."""
    names = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "logit_scale": "logit_scale",
    }
    parts = {
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model": "bert",
    }
    in_layer = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    result = {"visual.proj": state["visual_projection.weight"].T, "text_projection": state["text_projection.weight"].T}
    for name, tensor in state.items():
        layer = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in names:
            result[names[name]] = tensor
        elif layer and layer[2] == "self_attn.q_proj":
            three = [state[name.replace("q_proj", f"{which}_proj")] for which in "qkv"]
            result[f"visual.transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(three)
        elif layer and layer[2] in in_layer:
            result[f"visual.transformer.resblocks.{layer[1]}.{in_layer[layer[2]]}.{layer[3]}"] = tensor
        else:
            part = next((part for part in parts if name.startswith(f"{part}.")), None)
            if part:
                result[parts[part] + name.removeprefix(part)] = tensor
    result["bert.pooler.dense.weight"] = torch.zeros(2, 2)
    return {"epoch": 3, "name": "tiny", "state_dict": {f"module.{name}": one for name, one in result.items()}}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it: config.json and model.safetensors; and vocab.txt."""
    folder = tmp_path_factory.mktemp("chinese")
    of_transformers().save_pretrained(folder)
    write_vocabulary(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="session")
def files(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What a repository of OFA-Sys may hold, by name; the weights are the tiny ones, whatever they are called."""
    folder = tmp_path_factory.mktemp("files")
    state = load_file(saved / "model.safetensors")
    torch.save(as_ofa_saves(state), folder / "ofa.pt")
    torch.save(state, folder / "pytorch_model.bin")

    def file(name: str) -> Path:
        made = folder / ("ofa.pt" if name.endswith(".pt") else name)
        return made if made.exists() else saved / name

    return file


@pytest.fixture
def published(files: Callable[[str], Path], tmp_path: Path) -> Callable[..., None]:
    """Puts files into the hub cache: `published("OFA-Sys/…", "vocab.txt")`."""
    return lambda repo, *names: lay_out(tmp_path / "hub", repo, {name: files(name) for name in names})


# Any text at all, and such as the vocabulary has much of
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.lists(
    st.sampled_from([*vocabulary(), " ", "  ", "A", "É", "。", "oto"]), max_size=70
).map("".join)


# The reference


@cache
def reference(folder: Path) -> Any:
    from transformers import ChineseCLIPModel

    return ChineseCLIPModel.from_pretrained(folder).eval()


@cache
def their_tokenizer(vocab: Path) -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(str(vocab))


def their_ids(folder: Path, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    tokenizer = their_tokenizer(folder / "vocab.txt")
    found = tokenizer(list(texts), padding="max_length", truncation=True, max_length=52, return_tensors="pt")
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}


def their_pixels(size: int = SIZE) -> torch.Tensor:
    """Photos, squashed into a square, as OFA-Sys' own code prepares them."""
    images = [Image.open(photo).convert("RGB").resize((size, size), Image.Resampling.BICUBIC) for photo in PHOTOS]
    pixels = torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(each)[:, None, None]
        for each in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    return (pixels - mean) / std


def vectors(given: Any) -> torch.Tensor:
    """Rows of length 1; transformers 5 gives an object where 4 gave a tensor."""
    return normalize(getattr(given, "pooler_output", given), dim=-1)


@torch.no_grad()
def their_scores(model: Any, folder: Path, size: int = SIZE) -> np.ndarray:
    images = vectors(model.get_image_features(pixel_values=their_pixels(size)))
    texts = vectors(model.get_text_features(**their_ids(folder, [TEMPLATE.replace("<>", label) for label in LABELS])))
    scores: np.ndarray = (model.logit_scale.exp() * images @ texts.T).softmax(dim=-1).numpy()
    return scores


def our_scores(run: Any, model: str, *options: object) -> np.ndarray:
    labels = [part for label in LABELS for part in ("--label", label)]
    done = run(
        "classify", *PHOTOS, *labels, "--template", TEMPLATE, "--json", "--exact-decode", "--model", model, *options
    )
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return np.array([[dict(map(dict.values, record["scores"]))[label] for label in LABELS] for record in records])


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.ptp(theirs, axis=1).max() > 0.02, "the labels score alike: nothing is compared"
    assert np.ptp(theirs, axis=0).max() > 50 * TOLERANCE, "the images score alike: nothing is compared"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


# Numbers


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt"])
@pytest.mark.parametrize("make", ["transformers", "OFA-Sys"])
def test_scores_equal_those_of_transformers(run, copied, saved, make, suffix):
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    whole = {"state_dict": state} if make == "transformers" else as_ofa_saves(state)
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in whole["state_dict"].items()}, copied / "x.safetensors")
    else:
        torch.save(state if make == "transformers" else whole, copied / f"x{suffix}")
    ours = our_scores(run, f"cn-clip:{copied}", "--allow-pickle", "--engine", "torch")
    assert_same(ours, their_scores(reference(saved), saved))


@pytest.mark.skipif(not available(), reason="there is no OpenVINO for this platform")
def test_compiled_scores_equal_those_of_transformers(run, saved):
    ours = our_scores(run, f"cn-clip:{saved}", "--engine", "openvino", "--no-image-cache")
    assert_same(ours, their_scores(reference(saved), saved))


def test_a_model_with_gelu_and_other_epsilons_is_read_as_its_config_says(run, tmp_path):
    model = of_transformers(
        vision={"hidden_act": "gelu", "layer_norm_eps": 1e-2}, text={"layer_norm_eps": 1e-2, "type_vocab_size": 3}
    )
    model.save_pretrained(tmp_path)
    write_vocabulary(tmp_path)
    assert_same(our_scores(run, f"cn-clip:{tmp_path}", "--engine", "torch"), their_scores(model, tmp_path))


def test_each_tower_alone_gives_the_embeddings_of_transformers(saved):
    spec, model = resolve(f"cn-clip:{saved}"), reference(saved)
    pixels = np.stack([spec.preprocess(Image.open(photo).convert("RGB")) for photo in PHOTOS])
    texts = [text for text in NASTY if "[PAD]" not in text]
    with torch.no_grad():
        images = vectors(model.get_image_features(pixel_values=their_pixels()))
        words = vectors(model.get_text_features(**their_ids(saved, texts)))
    image, text = (encoder_for(spec, device="cpu", precision="fp32") for _ in range(2))
    np.testing.assert_allclose(image.encode_images(pixels), images.numpy(), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(text.encode_texts(text.tokenize(texts)), words.numpy(), rtol=0, atol=TOLERANCE)
    assert np.ptp(words.numpy(), axis=0).max() > 0.1
    assert text.logit_scale == pytest.approx(37.0)


def test_texts_of_any_length_are_embedded_alone_as_together(saved):
    encoder = encoder_for(resolve(f"cn-clip:{saved}"), device="cpu", precision="fp32")
    together = encoder.encode_texts(encoder.tokenize(NASTY))
    alone = np.concatenate([encoder.encode_texts(encoder.tokenize([text])) for text in NASTY])
    np.testing.assert_allclose(alone, together, rtol=0, atol=TOLERANCE)


def test_bf16_stays_near_fp32(run, saved):
    exact = our_scores(run, f"cn-clip:{saved}", "--score", "cosine", "--engine", "torch")
    near = our_scores(run, f"cn-clip:{saved}", "--score", "cosine", "--precision", "bf16", "--engine", "torch")
    np.testing.assert_allclose(near, exact, rtol=0, atol=0.05)
    assert not np.array_equal(near, exact)


def test_a_shipped_set_of_templates_in_chinese_works_with_it(run, cat, saved):
    done = run("classify", cat, "--labels", "猫,狗", "--templates", "zh", "--model", f"cn-clip:{saved}", "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert {score["label"] for score in record["scores"]} == {"猫", "狗"}
    assert sum(score["score"] for score in record["scores"]) == pytest.approx(1, abs=1e-6)
    assert record["model"] == f"cn-clip:{saved}"


@pytest.mark.skipif(not available(), reason="there is no OpenVINO for this platform")
def test_a_model_used_before_needs_neither_torch_nor_transformers(saved, compiled, monkeypatch):
    def classify(labels: str) -> tuple[dict[str, Any], set[str]]:
        command = [sys.executable, "-X", "importtime", "-m", "clipzs", "classify", PHOTOS[0], "--labels", labels]
        command += ["--template", TEMPLATE, "--model", f"cn-clip:{saved}", "--json", "--no-image-cache"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, check=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        return json.loads(done.stdout), {line.rpartition("|")[2].strip().split(".")[0] for line in lines}

    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    first, before = classify("猫,狗")
    new, after = classify("火箭,猫,狗")
    assert "torch" in before
    assert {"torch", "open_clip", "transformers"} & after == set()
    cat, dog = ({one["label"]: one["score"] for one in record["scores"]} for record in (first, new))
    assert cat["猫"] / cat["狗"] == pytest.approx(dog["猫"] / dog["狗"], rel=1e-3)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A folder for a large file that is gone afterwards."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.slow
def test_full_size_vit_b_16_from_the_hub_cache_equals_transformers(run, large, published):
    from transformers import ChineseCLIPConfig, ChineseCLIPModel
    from transformers.initialization import no_init_weights

    config = ChineseCLIPConfig(text_config={"vocab_size": 21128}, vision_config={"patch_size": 16}, projection_dim=512)
    with no_init_weights():
        model = ChineseCLIPModel(config).eval()
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        norm = re.search(r"norm.*weight", name.lower())
        parameter.data.fill_(1.0) if norm else parameter.data.uniform_(-0.1, 0.1)  # faster than normal_
    model.logit_scale.data.fill_(math.log(100.0))
    published(BASE, "vocab.txt")
    place = large / "hub" / f"models--{BASE.replace('/', '--')}"
    blob, snapshot = place / "blobs" / ("a" * 64), place / "snapshots" / COMMIT
    torch.save(as_ofa_saves(model.state_dict()), blob)
    (snapshot / "clip_cn_vit-b-16.pt").symlink_to(blob)
    ours = our_scores(run, "cn-clip:ViT-B/16", "--engine", "torch")
    assert_same(ours, their_scores(model, snapshot, 224))


@pytest.mark.slow
def test_full_size_rn50_from_a_file_equals_its_two_halves_elsewhere(run, large):
    from open_clip.modified_resnet import ModifiedResNet
    from transformers import BertConfig, BertModel
    from transformers.initialization import no_init_weights

    torch.manual_seed(3)
    image = ModifiedResNet([3, 4, 6, 3], output_dim=1024, heads=32, image_size=224, width=64).eval()
    with no_init_weights():
        text = BertModel(BertConfig(vocab_size=21128, num_hidden_layers=3), add_pooling_layer=False).eval()
    for name, parameter in text.named_parameters():
        parameter.data.fill_(1.0) if "LayerNorm.weight" in name else parameter.data.uniform_(-0.1, 0.1)
    for name, tensor in image.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.ndim < 2:
            tensor.add_(torch.randn_like(tensor) * 0.2)
    projection = torch.randn(768, 1024) * 0.05
    state = {f"module.visual.{name}": tensor for name, tensor in image.state_dict().items()}
    state |= {f"module.bert.{name}": tensor for name, tensor in text.state_dict().items()}
    state |= {"module.text_projection": projection, "module.logit_scale": torch.tensor(math.log(100.0))}
    torch.save({"state_dict": state}, large / "mine.pt")
    write_vocabulary(large)
    with torch.no_grad():
        images = vectors(image(their_pixels(224)))
        ids = their_ids(large, [TEMPLATE.replace("<>", label) for label in LABELS])
        texts = vectors(text(**ids).last_hidden_state[:, 0] @ projection)
        theirs = (100 * images @ texts.T).softmax(dim=-1).numpy()
    assert_same(our_scores(run, "cn-clip:RN50", "--pretrained", large / "mine.pt", "--engine", "torch"), theirs)


@pytest.mark.parametrize(
    ("name", "millions", "heads"),
    [("ViT-B-16", 188, 12), ("ViT-L-14", 406, 16), ("ViT-L-14-336", 407, 16), ("ViT-H-14", 958, 16), ("RN50", 77, 32)],
)
def test_published_models_have_the_sizes_ofa_sys_gives(name, millions, heads):
    from open_clip.model import _build_vision_tower

    from clipzs.bert import text_tower

    config = resolve(f"cn-clip:{name}").config
    image = unfilled(lambda: _build_vision_tower(config["embed_dim"], dict(config["vision_cfg"]), True))
    text = unfilled(lambda: text_tower(config))
    parameters = [*image.parameters(), *text.parameters()]
    assert round(sum(parameter.numel() for parameter in parameters) / 1e6) == millions
    found = image.attnpool.num_heads if name == "RN50" else image.transformer.resblocks[0].attn.num_heads
    assert found == heads


# Images


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"size": {"height": SIZE, "width": SIZE}, "do_center_crop": False}, "squash"),
        ({"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}, "shortest"),
        (
            {"size": {"height": SIZE, "width": SIZE}, "do_center_crop": False, "resample": 2, "image_mean": [0.5] * 3,
             "image_std": [0.25] * 3},
            "squash",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_images_are_prepared_as_transformers_does_with_the_settings_it_saved(copied, settings, mode, file):
    from transformers import ChineseCLIPProcessor
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil

    theirs = ChineseCLIPImageProcessorPil(**settings)
    if file == "preprocessor_config.json":
        theirs.save_pretrained(copied)
    else:
        ChineseCLIPProcessor(theirs, their_tokenizer(copied / "vocab.txt")).save_pretrained(copied)
        assert not (copied / "preprocessor_config.json").exists()
    prepared = resolve(f"cn-clip:{copied}").preprocess
    assert prepared.resize_mode == mode
    photo = Image.open(EXAMPLES / "cat.jpg").convert("RGB")
    assert photo.width != photo.height
    ours = normalise(torch.from_numpy(prepared(photo)[None]), prepared)
    assert torch.equal(ours, theirs(photo, return_tensors="pt")["pixel_values"])


def test_published_models_squash_images_as_transformers_does_but_for_rounding():
    from transformers import ChineseCLIPImageProcessor

    theirs = ChineseCLIPImageProcessor(size={"height": 224, "width": 224}, do_center_crop=False)
    prepared = resolve("cn-clip:ViT-B-16").preprocess
    assert prepared == preprocess(224)
    photo = Image.open(EXAMPLES / "cat.jpg").convert("RGB")
    ours = normalise(torch.from_numpy(prepared(photo)[None]), prepared)
    one_level = 1 / 255 / min(prepared.std)
    assert (ours - theirs(photo, return_tensors="pt")["pixel_values"]).abs().max() < 1.01 * one_level


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 224}},
        {"size": {"shortest_edge": SIZE}, "do_center_crop": False},
        {"size": {"height": SIZE, "width": SIZE}, "do_center_crop": False, "do_normalize": False},
        {"size": {"height": SIZE, "width": SIZE}, "do_center_crop": False, "resample": 0},
        {"size": {"height": SIZE, "width": SIZE}, "do_center_crop": False, "image_mean": 0.5},
    ],
)
def test_settings_for_images_that_clipzs_cannot_follow_are_an_error(run, cat, copied, settings):
    (copied / "preprocessor_config.json").write_text(json.dumps(settings))
    done = run("classify", cat, "--labels", "猫,狗", "--model", f"cn-clip:{copied}")
    assert done.exit_code == 1
    assert "its settings make no sense" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Texts


def assert_their_ids(folder: Path, texts: Sequence[str]) -> None:
    tokenizer = tokenizer_for(resolve(f"cn-clip:{folder}"))
    theirs = their_ids(folder, texts)["input_ids"].numpy()
    whole = [len(their_tokenizer(folder / "vocab.txt").encode(text)) for text in texts]
    for ours in (tokenizer, restored(json.loads(json.dumps(tokenizer.stored())))):
        found = ours(texts)
        np.testing.assert_array_equal(found.ids, theirs)
        assert found.ids.dtype == np.int64
        assert list(found.lengths) == whole


def test_odd_texts_have_the_ids_of_transformers(saved):
    assert_their_ids(saved, NASTY)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_any_texts_have_the_ids_of_transformers(saved, texts):
    assert_their_ids(saved, texts)


def test_full_width_characters_are_not_folded(saved):
    tokens = tokenizer_for(resolve(f"cn-clip:{saved}"))(["，", ","])
    assert tokens.ids[0].tolist() != tokens.ids[1].tolist()


@pytest.mark.parametrize("alone", [True, False])
def test_a_tokenizer_that_transformers_saved_is_taken_as_it_is(copied, alone):
    from transformers import BertTokenizer

    theirs = BertTokenizer(str(copied / "vocab.txt"), do_lower_case=False)
    theirs.save_pretrained(copied)
    if alone:
        (copied / "vocab.txt").unlink()
    expected = theirs(list(NASTY), padding="max_length", truncation=True, max_length=52)["input_ids"]
    np.testing.assert_array_equal(tokenizer_for(resolve(f"cn-clip:{copied}"))(NASTY).ids, expected)


def test_a_prompt_over_the_context_is_cut_with_a_warning(run, cat, saved):
    done = run("classify", cat, "--labels", f"{'猫' * 60},狗", "--template", "<>", "--model", f"cn-clip:{saved}")
    assert done.exit_code == 0, done.output
    assert "62 tokens" in done.stderr
    assert "reads 52" in done.stderr


def test_another_vocabulary_is_another_model(saved, copied):
    same = resolve(f"cn-clip:{saved}").digest
    assert resolve(f"cn-clip:{copied}").digest == same
    words = vocabulary()
    words[6], words[7] = words[7], words[6]
    (copied / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    assert resolve(f"cn-clip:{copied}").digest != same


def test_the_tokenizers_package_is_asked_for_by_name(run, cat, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    done = run("classify", cat, "--labels", "猫,狗", "--model", f"cn-clip:{saved}", "--engine", "torch")
    assert done.exit_code == 1
    assert "needs the tokenizers package" in done.stderr
    assert "hint: pip install 'clipzs[multilingual]'" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "cannot be read"),
        ("\n".join(["[PAD]", "[UNK]", "猫"]).encode(), "is not the vocabulary of a BERT"),
        ("\n".join(vocabulary() + [f"x{number}" for number in range(9)]).encode(), "another model's vocabulary"),
        ("\n".join(["x", *vocabulary()]).encode(), "another model's vocabulary"),
    ],
)
def test_a_vocabulary_that_is_none_of_the_models_is_an_error(run, cat, copied, content, message):
    (copied / "vocab.txt").write_bytes(content)
    done = run("classify", cat, "--labels", "猫,狗", "--model", f"cn-clip:{copied}", "--engine", "torch")
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# Names


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ViT-B-16", "ViT-B-16"),
        ("vit-b/16", "ViT-B-16"),
        ("ViT-L/14", "ViT-L-14"),
        ("ViT-L/14@336px", "ViT-L-14-336"),
        ("ViT-L-14-336px", "ViT-L-14-336"),
        ("VIT-H/14", "ViT-H-14"),
        ("rn50", "RN50"),
        ("OFA-Sys/chinese-clip-vit-huge-patch14", "ViT-H-14"),
        ("OFA-Sys/chinese-clip-vit-large-patch14-336px", "ViT-L-14-336"),
    ],
)
def test_names_are_understood_as_ofa_sys_writes_them(written, name):
    assert resolve(f"cn-clip:{written}") == resolve(f"cn-clip:{name}")
    assert resolve(f"cn-clip:{name}").name == f"cn-clip:{name}"


def test_published_models_say_what_they_are_and_where_that_was_found():
    for name in chinese.PUBLISHED:
        spec = resolve(f"cn-clip:{name}")
        assert (spec.backend, spec.languages) == ("chinese-clip", ("zh", "en"))
        assert spec.licence is not None
        assert spec.licence.source == spec.sources["licence"]
        assert not spec.sigmoid
        assert spec.context_length == 52
    assert resolve("cn-clip:RN50").tokenizer in {one.repo for one in chinese.PUBLISHED.values()} - {
        "OFA-Sys/chinese-clip-rn50"
    }


@pytest.mark.parametrize(
    ("model", "options", "message", "code"),
    [
        ("ViT-B-32", (), "did you mean cn-clip:ViT-B-16", 2),
        ("vit", (), "the names are ViT-B-16, ViT-L-14", 2),
        ("", (), "unknown model", 2),
        ("no/such/folder", (), "unknown model", 2),
        ("ViT-B-16", ("--pretrained", "nowhere.pt"), "no such weights file: nowhere.pt", 2),
        (str(EXAMPLES), (), "has no config.json", 1),
        (str(EXAMPLES), ("--pretrained", "x.pt"), "--pretrained does not go with the folder", 2),
        (str(EXAMPLES / "labels.txt"), (), "is a file: its architecture must be named too", 2),
    ],
)
def test_what_cannot_be_is_said_in_a_line(run, cat, model, options, message, code):
    done = run("classify", cat, "--labels", "猫,狗", "--model", f"cn-clip:{model}", *options)
    assert message in done.stderr
    assert done.exit_code == code
    assert len(done.stderr.splitlines()) <= 2


# Files


@pytest.mark.parametrize("weights", ["clip_cn_vit-b-16.pt", "pytorch_model.bin", "model.safetensors"])
def test_a_published_model_is_found_in_the_hub_cache_however_it_was_fetched(published, weights):
    published(BASE, weights, "vocab.txt")
    spec = resolve("cn-clip:ViT-B-16")
    assert spec.weights.name == weights
    assert spec.local_weights == spec.weights
    assert spec.bytes_here == spec.weights.stat().st_size + (spec.weights.parent / "vocab.txt").stat().st_size
    assert tokenizer_for(spec)(["猫"]).lengths == (3,)


def test_any_published_vocabulary_serves_rn50_whose_repository_has_none(published):
    published("OFA-Sys/chinese-clip-rn50", "clip_cn_rn50.pt")
    published("OFA-Sys/chinese-clip-vit-huge-patch14", "vocab.txt")
    spec = resolve("cn-clip:RN50")
    assert tokenizer_for(spec)(["猫"]).lengths == (3,)
    assert len(spec.digest) == 64


def test_without_network_what_is_missing_is_named(run, cat, published):
    missing = run("classify", cat, "--labels", "猫,狗", "--model", "cn-clip:ViT-B-16")
    assert missing.exit_code == 1
    assert "clip_cn_vit-b-16.pt" in missing.stderr
    published(BASE, "clip_cn_vit-b-16.pt")
    half = run("classify", cat, "--labels", "猫,狗", "--model", "cn-clip:ViT-B-16")
    assert half.exit_code == 1
    assert "vocab.txt" in half.stderr
    assert "clipzs models pull cn-clip:ViT-B-16" in half.stderr


def test_weights_from_elsewhere_take_the_vocabulary_beside_them_else_the_published_one(published, copied):
    file = copied / "model.safetensors"
    beside = resolve("cn-clip:ViT-B-16", str(file))
    assert beside.name == "cn-clip:ViT-B-16:model.safetensors"
    assert beside.licence is None
    assert isinstance(beside, chinese.ChineseClip)
    assert beside.vocabulary == copied / "vocab.txt"
    (copied / "vocab.txt").unlink()
    alone = resolve("cn-clip:ViT-B-16", str(file))
    with pytest.raises(ModelError, match=r"vocab\.txt"):
        tokenizer_for(alone)
    published("OFA-Sys/chinese-clip-vit-large-patch14", "vocab.txt")
    assert tokenizer_for(alone)(["猫"]).lengths == (3,)


def test_pickles_of_a_folder_are_taken_only_when_allowed(run, cat, copied):
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    asked = ("classify", cat, "--labels", "猫,狗", "--model", f"cn-clip:{copied}", "--engine", "torch")
    refused = run(*asked)
    assert refused.exit_code == 1
    assert "hint: --allow-pickle takes pytorch_model.bin" in refused.stderr
    assert run(*asked, "--allow-pickle").exit_code == 0


def test_a_folder_of_another_model_is_not_taken_for_one(run, cat, copied):
    config = json.loads((copied / "config.json").read_text())
    for changed, message in (
        ({**config, "model_type": "clip"}, "describes clip, not chinese_clip"),
        ({}, "describes no model, not chinese_clip"),
        ({**config, "text_config": {"hidden_act": "relu"}}, "its activations are quick_gelu and relu"),
        ({**config, "vision_config": {"hidden_size": "wide"}}, "make no sense"),
        ({**config, "vision_config": {"hidden_size": 0}}, "make no sense"),
        ([], "holds no settings"),
    ):
        (copied / "config.json").write_text(json.dumps(changed))
        done = run("classify", cat, "--labels", "猫,狗", "--model", f"cn-clip:{copied}")
        assert done.exit_code == 1
        assert message in done.stderr
    (copied / "config.json").write_text("{")
    assert "is not valid JSON" in run("models", "show", f"cn-clip:{copied}").stderr


def test_a_config_that_leaves_out_what_is_usual_is_filled_in(tmp_path):
    config = {"model_type": "chinese_clip", "vision_config": {"patch_size": 16}, "text_config": {"vocab_size": 21128}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"logit_scale": torch.tensor(4.6)}, tmp_path / "model.safetensors")
    found, known = resolve(f"cn-clip:{tmp_path}"), resolve("cn-clip:ViT-B-16")
    assert (found.config, found.preprocess) == (known.config, known.preprocess)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda state: [state.pop(f"text_model.embeddings.LayerNorm.{part}") for part in ("weight", "bias")],
         ["2", "embeddings.LayerNorm"]),
        (lambda state: state.pop("vision_model.encoder.layers.1.self_attn.k_proj.bias"), ["resblocks.1.attn"]),
        (lambda state: state.update({"text_model.encoder.layer.9.output.dense.bias": torch.zeros(64)}),
         ["1", "encoder.layer.9.output.dense.bias"]),
        (lambda state: state.update({"visual_projection.weight": torch.zeros(7, 80)}), ["1", "proj"]),
        (lambda state: state.update({"lora.a": torch.zeros(1), "lora.b": torch.zeros(1)}), ["2", "lora.a, lora.b"]),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named_and_counted(run, cat, copied, change, wrong):
    state = load_file(copied / "model.safetensors")
    change(state)
    save_file(state, copied / "model.safetensors")
    done = run("classify", cat, "--labels", "猫,狗", "--model", f"cn-clip:{copied}", "--engine", "torch")
    assert done.exit_code == 1
    *_, error, hint = done.stderr.splitlines()  # before them, that both labels are the same to random weights
    assert error.startswith("error: the weights ")
    assert all(part in error for part in wrong)
    assert hint.startswith("hint: ")


def test_the_weights_of_another_kind_of_model_are_not_taken_for_one(run, cat, copied, folder):
    shutil.copy(folder("vit") / "open_clip_model.safetensors", copied / "model.safetensors")
    done = run("classify", cat, "--labels", "猫,狗", "--model", f"cn-clip:{copied}", "--engine", "torch")
    assert done.exit_code == 1
    assert re.search(r"do not fit cn-clip:.*: \d+ tensors are unexpected \(", done.stderr)


def test_pull_is_content_with_what_is_here_and_names_what_is_not(run, published):
    published(BASE, "clip_cn_vit-b-16.pt")
    refused = run("models", "pull", "cn-clip:ViT-B-16")
    assert refused.exit_code == 1
    assert "vocab.txt" in refused.stderr
    published(BASE, "vocab.txt")
    done = run("models", "pull", "cn-clip:ViT-B-16")
    assert done.exit_code == 0, done.output
    assert "clip_cn_vit-b-16.pt" in done.stdout


def test_pull_fetches_weights_and_vocabulary_each_from_where_it_is(run, files, serve, online, tmp_path):
    hub = Repositories()
    hub.put("OFA-Sys/chinese-clip-rn50", {"clip_cn_rn50.pt": files("clip_cn_rn50.pt")})
    hub.put(BASE, {"vocab.txt": files("vocab.txt"), "config.json": files("config.json")})
    online(serve(hub).url)
    done = run("models", "pull", "cn-clip:RN50")
    assert done.exit_code == 0, done.output
    assert "licence of the weights: Apache-2.0" in done.stderr
    fetched = {path.name for path in (tmp_path / "hub").glob("models--*/snapshots/*/*")}
    assert fetched == {"clip_cn_rn50.pt", "vocab.txt"}
    spec = resolve("cn-clip:RN50")
    assert spec.local_weights is not None
    assert tokenizer_for(spec)(["猫"]).lengths == (3,)
