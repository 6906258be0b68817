"""Tiny models that write, of every family that prune knows, with weights that hide nothing."""

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    GPT2Config,
    LlamaConfig,
    MarianConfig,
    MBartConfig,
    MT5Config,
    Qwen2Config,
    T5Config,
)

from compress.models import CausalTransformer, Transducer
from compress.models.causal_lm import CausalLogits
from compress.models.seq2seq import Seq2SeqLogits
from compress.tasks import Signature
from compress.tasks import Tensor as Declared
from compress.tasks.special import BEGIN, PAD

SYMBOLS = 13
WIDTHS = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 32}
RELATIVE = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
            "relative_attention_num_buckets": 8}  # fmt: skip
NUMBERS = {"vocab_size": SYMBOLS, "pad_token_id": PAD, "decoder_start_token_id": BEGIN, "eos_token_id": 2}
CONFIGS = {
    "marian": lambda: MarianConfig(**WIDTHS, **HEADS, **NUMBERS),
    "bart": lambda: BartConfig(**WIDTHS, **HEADS, **NUMBERS, forced_eos_token_id=None),
    "mbart": lambda: MBartConfig(**WIDTHS, **HEADS, **NUMBERS, forced_eos_token_id=None),
    "t5": lambda: T5Config(**RELATIVE, **NUMBERS),
    "t5-gated": lambda: T5Config(**RELATIVE, **NUMBERS, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": lambda: MT5Config(**RELATIVE, **NUMBERS),
}
FAMILIES = ("transducer", *CONFIGS)
ROTARY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
          "intermediate_size": 24, "max_position_embeddings": 32, "vocab_size": SYMBOLS}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_inner": 24, "n_positions": 32, "vocab_size": SYMBOLS}
CAUSAL_CONFIGS = {
    "gpt2": lambda: GPT2Config(**GPT2),
    "llama": lambda: LlamaConfig(**ROTARY),
    "qwen2": lambda: Qwen2Config(**ROTARY | {"num_key_value_heads": 1}),
    "llama-each": lambda: LlamaConfig(**ROTARY | {"num_key_value_heads": 4}),
}
CAUSAL = ("causal", *CAUSAL_CONFIGS)
SIGNATURE = Signature(
    inputs=(
        Declared(name="source_ids", dtype="int64", shape=("batch", "source"), symbols=11),
        Declared(name="source_mask", dtype="int64", shape=("batch", "source")),
        Declared(name="target_ids", dtype="int64", shape=("batch", "target")),
    ),
    outputs=(Declared(name="logits", dtype="float32", shape=("batch", "target", SYMBOLS)),),
    classes=tuple(f"class {number}" for number in range(SYMBOLS)),
)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "transducer":
        model = Transducer(
            source_symbols=11, target_symbols=SYMBOLS, width=16, heads=4, feed_forward=24, encoder_layers=2,
            decoder_layers=3, max_length=16,
        )  # fmt: skip
    elif name == "causal":
        model = CausalTransformer(symbols=SYMBOLS, width=16, heads=4, feed_forward=24, decoder_layers=3, max_length=16)
    elif name in CAUSAL:
        config = CAUSAL_CONFIGS[name]()
        config._attn_implementation = "eager"
        model = CausalLogits(AutoModelForCausalLM.from_config(config), separated=name == "qwen2")
    else:
        config = CONFIGS[name]()
        config._attn_implementation = "eager"
        model = Seq2SeqLogits(AutoModelForSeq2SeqLM.from_config(config), SYMBOLS)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.3 * torch.randn_like(value)
    return model.eval()


def inputs(rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of 7 symbols and fewer, targets of 6 and fewer."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(7) < torch.tensor([7, 4, 1, 6])[:rows, None]).long()
    source = torch.randint(3, 11, (rows, 7), generator=generator) * mask
    target = torch.randint(3, SYMBOLS, (rows, 6), generator=generator)
    target[:, 0] = BEGIN
    return source, mask, torch.where(torch.arange(6) < torch.tensor([6, 3, 5, 2])[:rows, None], target, PAD)
