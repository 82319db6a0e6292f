"""MiniLM (Wang et al., 2020) with a classifier: a small BERT for texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hydrapress.errors import ConfigError
from hydrapress.quiet import quiet

__all__ = ["MiniLM"]

_VOCABULARY = 30522
_HIDDEN = 384
_LAYERS = 6
_HEADS = 12
_INTERMEDIATE = 1536
_POSITIONS = 512

_MASKED = -1e4
"""Added to the score of padding: e to its power is zero in float32, and it fits into float16."""


class MiniLM(nn.Module):
    """MiniLM-L6-H384-uncased and a linear classifier of its pooled first token; 22.7 M parameters."""

    def __init__(self, classes: int = 2, layers: int = _LAYERS, dropout: float = 0.1) -> None:
        """Make it with initial weights.

        Args:
            classes: Outputs.
            layers: Of the encoder, 1 to 6; the pretrained weights are for 6.
            dropout: Fraction of activations and of attention dropped while training, 0..1.

        Raises:
            ConfigError: If transformers is not installed, or a value is out of its range.
        """
        super().__init__()
        if not 1 <= layers <= _LAYERS:
            raise ConfigError(f"model minilm: layers is {layers}; it must satisfy 1 <= layers <= {_LAYERS}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"model minilm: dropout is {dropout}; it must satisfy 0 <= dropout < 1")
        try:
            with quiet():
                from transformers import BertConfig, BertModel
        except ImportError as error:
            raise ConfigError(
                f"model minilm: transformers can't be imported ({error}); pip install 'hydrapress[text]'"
            ) from error
        numbers: dict[str, Any] = {
            "vocab_size": _VOCABULARY,
            "hidden_size": _HIDDEN,
            "num_hidden_layers": layers,
            "num_attention_heads": _HEADS,
            "intermediate_size": _INTERMEDIATE,
            "max_position_embeddings": _POSITIONS,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "layer_norm_eps": 1e-12,
            # plain operators, which every runtime has
            "attn_implementation": "eager",
        }
        self.bert = BertModel(BertConfig(**numbers))
        for module in self.bert.modules():
            # transformers' own mark, which it sets only where there is memory: no part of the model
            module.__dict__.pop("_is_hf_initialized", None)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_HIDDEN, classes)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Give logits ``(batch, classes)``.

        Args:
            input_ids: Tokens ``(batch, length)``, at most 512 long, whole numbers.
            attention_mask: 1 for a token and 0 for padding, ``(batch, length)``.
        """
        # made here, because transformers' own is -3.4e38, beside which int8 has no room for scores
        added = (1.0 - attention_mask[:, None, None, :].to(self.classifier.weight.dtype)) * _MASKED
        pooled = self.bert(input_ids, attention_mask=added).pooler_output
        logits: torch.Tensor = self.classifier(self.dropout(pooled))
        return logits
