"""The text tower of Chinese-CLIP: a BERT whose first position is projected. Its own, so as not to need transformers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PADDING = 0  # the id of [PAD]


def text_tower(config: Mapping[str, Any]) -> "torch.nn.Module":
    """A module from int64 [n, length] to float [n, embed_dim], with parameters named as in BERT checkpoints.

    Args:
        config: of the model, as `ModelSpec.config`; `text_cfg` has the sizes.
    """
    import torch
    from torch import nn
    from torch.nn.functional import gelu, scaled_dot_product_attention

    sizes = config["text_cfg"]
    width, inner, heads = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_attention_heads"]

    def norm() -> nn.LayerNorm:
        return nn.LayerNorm(width, eps=sizes["layer_norm_eps"])

    def per_head(stream: torch.Tensor) -> torch.Tensor:
        """[n, length, width] → [n, heads, length, width of one]"""
        return stream.reshape(*stream.shape[:2], heads, width // heads).transpose(1, 2)

    class Added(nn.Module):
        """What goes on top of the residual stream."""

        def __init__(self, size: int) -> None:
            super().__init__()
            self.dense, self.LayerNorm = nn.Linear(size, width), norm()

        def forward(self, given: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.LayerNorm(self.dense(given) + stream)
            return result

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inputs = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
            self.attention: Any = nn.ModuleDict({"self": inputs, "output": Added(width)})
            self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
            self.output = Added(inner)

        def forward(self, stream: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            query, key, value = (per_head(part(stream)) for part in self.attention["self"].values())
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen)
            stream = self.attention["output"](mixed.transpose(1, 2).flatten(2), stream)
            result: torch.Tensor = self.output(gelu(self.intermediate["dense"](stream)), stream)
            return result

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings: Any = nn.ModuleDict(
                {
                    "word_embeddings": nn.Embedding(sizes["vocab_size"], width),
                    "position_embeddings": nn.Embedding(sizes["max_position_embeddings"], width),
                    "token_type_embeddings": nn.Embedding(sizes["type_vocab_size"], width),
                    "LayerNorm": norm(),
                }
            )
            layers = nn.ModuleList(Layer() for _ in range(sizes["num_hidden_layers"]))
            self.encoder: Any = nn.ModuleDict({"layer": layers})
            self.text_projection = nn.Linear(width, config["embed_dim"], bias=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            parts = self.embeddings
            places = parts["position_embeddings"].weight[: ids.shape[1]]
            stream = parts["word_embeddings"](ids) + places + parts["token_type_embeddings"].weight[0]
            stream = parts["LayerNorm"](stream)
            seen = (ids != PADDING)[:, None, None]  # [n, 1, 1, length]: padding is attended to by none
            for layer in self.encoder["layer"]:
                stream = layer(stream, seen)
            result: torch.Tensor = self.text_projection(stream[:, 0])
            return result

    return Bert()
