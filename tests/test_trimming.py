"""Texts cut where it changes nothing: towers of transformers that mask their padding, and causal ones."""

import json

import models
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipzs.compiled import available, core, settings
from clipzs.conversion import converted
from clipzs.encoder import TextEnd, Tokens, trimmed
from clipzs.resolve import resolve
from clipzs.towers import OpenClipEncoder

CONTEXT, VOCABULARY = 77, 120
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 90,
}
# What the towers of open_clip's own configs are made of, and how their answer is read.
TOWERS = {
    "roberta": (BERT | {"pad_token_id": 1}, "mean_pooler"),
    "xlm-roberta": (BERT | {"pad_token_id": 1}, "mean_pooler"),
    "bert": (BERT | {"pad_token_id": 0}, "cls_last_hidden_state_pooler"),
    "mt5": (
        {"vocab_size": VOCABULARY, "d_model": 48, "d_kv": 12, "num_heads": 4, "num_layers": 2, "d_ff": 64,
         "relative_attention_max_distance": 20, "pad_token_id": 0, "decoder_start_token_id": 0},
        "mean_pooler",
    ),
    "m2m_100": (
        {"vocab_size": VOCABULARY, "d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4,
         "encoder_ffn_dim": 64, "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
         "max_position_embeddings": 90, "pad_token_id": 1},
        "cls_pooler",
    ),
}  # fmt: skip


@pytest.fixture(params=[*TOWERS, "eos"])
def encoder(request, tmp_path) -> OpenClipEncoder:
    """One of each kind of text tower; "eos" is a causal one beside a tokenizer of transformers, as in MetaCLIP 2."""
    if request.param == "eos":
        text = {**models.TEXT, "vocab_size": VOCABULARY, "pool_type": "eos", "eos_id": 2, "pad_id": 1}
    else:
        config, pooler = TOWERS[request.param]
        (tmp_path / "config.json").write_text(json.dumps({"model_type": request.param, **config}))
        text = {"hf_model_name": str(tmp_path), "hf_pooler_type": pooler, "hf_proj_type": "linear"}
        text["hf_model_pretrained"] = False
    config = {"embed_dim": 32, "custom_text": True, "vision_cfg": models.VIT, "text_cfg": text}
    models.write_config(tmp_path, config)
    save_file(models.random_state(f"local-dir:{tmp_path}"), tmp_path / "open_clip_model.safetensors")
    return OpenClipEncoder(resolve(f"local-dir:{tmp_path}"), device="cpu")


def tokens(padding: int) -> Tokens:
    """Texts of very different lengths, the first and the last of them short."""
    lengths, numbers = (3, 17, 60, 9, 4), np.random.default_rng(0)
    ids = np.full((len(lengths), CONTEXT), padding, np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [0, *numbers.integers(3, VOCABULARY, length - 2), 2]
    return Tokens(ids, lengths)


def test_what_is_cut_changes_no_embedding(encoder):
    end = encoder.text_end
    assert end is not None
    texts = tokens(end.token if end.how == "padding" else 1)
    assert trimmed(texts.ids, end).shape[1] == max(texts.lengths)
    with torch.inference_mode():
        whole = encoder.text_features(torch.from_numpy(texts.ids)).numpy()
    assert np.ptp(whole, axis=0).max() > 0.02, "all texts embed alike"
    np.testing.assert_allclose(encoder.encode_texts(texts), whole, rtol=0, atol=1e-6)
    for row in range(len(whole)):
        alone = texts[row : row + 1]
        assert trimmed(alone.ids, end).shape[1] == alone.lengths[0]
        np.testing.assert_allclose(encoder.encode_texts(alone)[0], whole[row], rtol=0, atol=1e-6)
    if available():
        model = converted(encoder.text_features, encoder.tower("text"), texts.ids[:2], any_length=True)
        run = core().compile_model(model, "CPU", settings("fp32"))
        for some in (texts, texts[:2], texts[:1], texts[-1:]):
            found = run(trimmed(some.ids, end))[0]
            expected = whole[-1:] if some.lengths == texts.lengths[-1:] else whole[: len(some.lengths)]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_padding_is_cut_only_behind_the_texts():
    end = TextEnd("padding", 1)
    before = np.array([[1, 1, 5, 6], [1, 4, 5, 6]])
    np.testing.assert_array_equal(trimmed(before, end), before)
    within = np.array([[5, 1, 6, 1, 1], [5, 6, 1, 1, 1]])
    np.testing.assert_array_equal(trimmed(within, end), within[:, :3])


def test_a_row_of_nothing_but_padding_is_not_cut():
    ids = np.array([[1, 1, 1], [5, 1, 1]])
    np.testing.assert_array_equal(trimmed(ids, TextEnd("padding", 1)), ids)
