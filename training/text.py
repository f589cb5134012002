"""The words: a CLIP tokenizer whose vocabulary comes from the captions, and a small text encoder.

`vocab.json` and `merges.txt` are byte-pair encoding in CLIP's format. Every word of a caption is
one token ("3d" is two, as CLIP splits digits from letters); other ASCII text becomes pieces.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_LENGTH = 16
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def learn_vocabulary(word_counts: Counter[str]) -> tuple[dict[str, int], list[str]]:
    """Byte-pair encoding of the words: vocabulary and merges, CLIP's special tokens last."""
    symbols = [c for c in string.printable if not c.isspace() and not c.isupper()]
    trainer = BpeTrainer(
        vocab_size=100_000,  # ends far earlier: when every word is one token
        initial_alphabet=symbols,
        end_of_word_suffix=END_OF_WORD,
        min_frequency=1,
        show_progress=False,
    )
    learner = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    learner.pre_tokenizer = Whitespace()
    learner.train_from_iterator((" ".join([w] * n) for w, n in word_counts.items()), trainer)
    merges = [" ".join(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    merged = [pair.replace(" ", "") for pair in merges]
    tokens = [*symbols, *(s + END_OF_WORD for s in symbols), *dict.fromkeys(merged), START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def write_tokenizer(captions: Iterable[str], folder: Path) -> None:
    """Write a folder that `CLIPTokenizer.from_pretrained` reads."""
    counts = Counter(word for text in captions for word in text.replace(",", " ").split())
    vocabulary, merges = learn_vocabulary(counts)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Take over the words of another model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())


def build_text_encoder(tokenizer: CLIPTokenizer, hidden_size: int = 96) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            projection_dim=hidden_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
