"""Weights files: what does not fit is said in one line, and what training wraps around weights does no harm."""

import re
from collections.abc import Callable
from pathlib import Path

import backbones
import models
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small built-in architecture."""
    file = tmp_path_factory.mktemp("small") / "weights.safetensors"
    save_file(models.random_state("ViT-S-32-alt"), file)
    return file


@pytest.fixture
def refused(run, cat, tmp_path) -> Callable[..., tuple[str, str]]:
    """What the command says of weights: the error and the hint."""

    def ask(state: State | Path, model: str = "ViT-S-32-alt") -> tuple[str, str]:
        file = state if isinstance(state, Path) else tmp_path / "w.safetensors"
        if not isinstance(state, Path):
            save_file(state, file)
        options = ("--model", model, "--pretrained", file, "--no-quick-gelu", "--no-cache")
        result = run("classify", cat, "--labels", "a,b", *options)
        assert (result.exit_code, result.stdout) == (1, "")
        error, hint = re.fullmatch(r"error: (.*)\nhint: (.*)\n", result.stderr).groups()
        assert len(error) <= 300 + len(str(file))
        return error.replace(str(file), "FILE"), hint

    return ask


def test_missing_unexpected_and_reshaped_tensors_are_named_and_counted(small, refused):
    state = load_file(small)
    del state["visual.proj"], state["ln_final.bias"], state["text_projection"]
    state |= {"visual.lora": torch.zeros(2), "visual.class_embedding": torch.zeros(5)}
    error, _ = refused(state)
    assert error.startswith("the weights FILE do not fit ViT-S-32-alt:w.safetensors: 3 tensors are missing (")
    assert error.endswith(
        " (text_projection, visual.proj, …), 1 is unexpected (visual.lora), "
        "1 has another shape (visual.class_embedding is [5], expected [384])"
    )


def test_an_adapter_beside_the_towers_is_not_left_out_without_a_word(small, refused):
    state = load_file(small) | {"adapter.weight": torch.zeros(2)}
    assert refused(state)[0].endswith(": 1 tensor is unexpected (adapter.weight)")


def test_weights_of_another_architecture_say_which_they_look_like(small, refused):
    error, hint = refused(small, "ViT-B-32")
    assert re.search(
        r": 24 tensors are missing \(.*\), \d+ have another shape \(.* is \[.*\], expected \[.*\], …\)$", error
    )
    assert hint == "they look like weights of ViT-S-32-alt: --model ViT-S-32-alt"


def test_pickled_weights_say_so_too(small, refused, tmp_path):
    torch.save({"state_dict": load_file(small)}, tmp_path / "w.pt")
    assert refused(tmp_path / "w.pt", "RN50")[1] == "they look like weights of ViT-S-32-alt: --model ViT-S-32-alt"


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_big_visions_own_checkpoints_are_refused_by_their_name(refused, tmp_path, suffix):
    file = tmp_path / f"siglip{suffix}"
    np.savez(file, **{"params/t": np.zeros(1)})
    if suffix == ".npy":
        np.save(file, np.zeros(1))
    error, hint = refused(file)
    assert error == "FILE is a checkpoint of big_vision, which clipzs does not read"
    assert "models list" in hint


@pytest.fixture
def scores(run, cat, folder, tmp_path) -> Callable[[State, str], str]:
    """What the command prints with these weights, in a file of that suffix, of the smallest model."""

    def ask(state: State, suffix: str) -> str:
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        models.write_config(place, models.CONFIGS["vit"])
        if suffix == ".pt":
            torch.save({"epoch": 3, "name": "x", "state_dict": state, "optimizer": {"state": {}}}, place / "w.pt")
        else:
            save_file(state, place / f"w{suffix}")
        asked = ("--model", f"local-dir:{place}", "--allow-pickle", "--engine", "torch", "--no-cache")
        result = run("classify", cat, "--labels", "cat,a dog", "--top-k", "2", "--format", "csv", *asked)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    return ask


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_names_may_begin_with_what_wraps_a_model_in_training(scores, folder, prefix, suffix):
    state = load_file(folder("vit") / "open_clip_model.safetensors")
    wrapped = {f"{prefix}{key}": value for key, value in state.items()}
    assert scores(wrapped, suffix) == scores(state, ".safetensors")


def test_facts_beside_the_weights_in_openais_files_do_no_harm(scores, folder):
    state = load_file(folder("vit") / "open_clip_model.safetensors")
    facts = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    assert scores(state | {key: torch.tensor(value) for key, value in facts.items()}, ".pt") == scores(state, ".pt")


IMAGE_NAMES = {  # of timm → of Apple's own code, of which each stage is one or more parts of a list
    "stages.0.blocks": "network.0", "stages.1.downsample.proj": "network.1.proj", "stages.1.blocks": "network.2",
    "stages.2.downsample.proj": "network.3.proj", "stages.2.blocks": "network.4",
    "stages.3.downsample.proj": "network.5.proj", "stages.3.pos_emb.pos_enc": "network.6.pe",
    "stages.3.blocks": "network.7", "stem": "patch_embed", "conv_kxk": "rbr_conv", "conv_scale": "rbr_scale",
    "identity": "rbr_skip", "final_conv": "conv_exp", "large_conv": "lkb_origin", "mlp": "convffn",
    "se.fc1": "se.reduce", "se.fc2": "se.expand", ".gamma": "", "head.fc.weight": "head.proj",
}  # fmt: skip
TEXT_NAMES = {
    "text_projection": "projection_layer", "token_embedding": "embedding_layer", "ln_final": "final_layer_norm",
    "positional_embedding": "positional_embedding.pos_embed.pos_embed", "resblocks.": "", "ln_1": "pre_norm_mha.0",
    "attn.in_proj_": "pre_norm_mha.1.qkv_proj.", "attn.": "pre_norm_mha.1.", "ln_2": "pre_norm_ffn.0",
    "mlp.c_fc": "pre_norm_ffn.1", "mlp.c_proj": "pre_norm_ffn.4",
}  # fmt: skip


def as_apple_saves(state: State) -> State:
    """A MobileCLIP under the names of Apple's own code."""
    found: State = {"logit_scale": state["logit_scale"]}
    for key, value in state.items():
        for ours, theirs, names in (
            ("visual.trunk.", "image_encoder.model.", IMAGE_NAMES),
            ("text.", "text_encoder.", TEXT_NAMES),
        ):
            if key.startswith(ours) and key != "visual.trunk.head.fc.bias":
                name = key.removeprefix(ours)
                for one, other in names.items():
                    name = name.replace(one, other)
                shown = value.T if name == "head.proj" else value
                found[theirs + name] = shown[None, None] if "pos_embed.pos_embed" in name else shown
    return found


def test_mobileclip_as_apple_published_it_scores_the_same(tmp_path):
    row = next(row for row in backbones.ROWS if row.model == "MobileCLIP-S1")
    state = backbones.write_model(row, tmp_path)
    state["visual.trunk.head.fc.bias"].zero_()  # Apple's has none
    file = tmp_path / "open_clip_model.safetensors"
    save_file(state, file)
    expected = backbones.command_scores("--model", f"local-dir:{tmp_path}")
    file.unlink()
    torch.save(as_apple_saves(state), tmp_path / "mobileclip_s1.pt")
    np.testing.assert_allclose(
        backbones.command_scores("--model", f"local-dir:{tmp_path}"), expected, rtol=0, atol=1e-5
    )


def test_weights_adapted_to_another_image_size_come_with_a_warning(run, cat, folder, tmp_path):
    source = folder("vit") / "open_clip_model.safetensors"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    models.write_config(tmp_path, models.altered(models.CONFIGS["vit"], vision_cfg={"image_size": 96}))
    result = run("classify", cat, "--labels", "a,b", "--model", f"local-dir:{tmp_path}", "--engine", "torch")
    assert result.exit_code == 0
    assert "adapted: visual.positional_embedding is [17,64], expected [37,64]" in " ".join(result.stderr.split())
