"""A T5 encoder with random weights and a tokenizer of a few pieces, for pipelines that use one."""

from transformers import (
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

PIECES = ["<pad>", "</s>", "<unk>", "▁", "a", "b", "c"]


def build_t5_tokenizer(model_max_length=8):
    vocab = [(piece, -float(i > 2)) for i, piece in enumerate(PIECES)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=model_max_length)


def build_t5(dim=16, umt5=False):
    config_class, model_class = (
        (UMT5Config, UMT5EncoderModel) if umt5 else (T5Config, T5EncoderModel)
    )
    config = config_class(
        vocab_size=len(PIECES),
        d_model=dim,
        d_kv=dim // 2,
        d_ff=dim,
        num_layers=1,
        num_heads=2,
        relative_attention_num_buckets=4,
        feed_forward_proj="gated-gelu",
    )
    return model_class(config)
