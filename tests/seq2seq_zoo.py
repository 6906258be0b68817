"""Tiny encoder-decoders of transformers with drawn weights, and tokenizers, saved as transformers saves them."""

from pathlib import Path

import torch
import writing_zoo
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    MarianConfig,
    MBartConfig,
    MT5Config,
    PreTrainedTokenizerFast,
    T5Config,
)

WIDTHS = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
LANGUAGES = ["<words>", "<sounds>"]
BEGINNINGS = {"bart": "<s> ", "mbart": "<words> "}  # that a family's tokenizer sets before a text
CONFIGS = {"marian": MarianConfig, "bart": BartConfig, "mbart": MBartConfig, "t5": T5Config, "mt5": MT5Config}


def make_tokenizer(folder: Path, *, end: str | None = "</s>", begins: str = "") -> int:
    """Byte pairs of the zoo's words and sounds, with an end after each text, saved as transformers saves it."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    texts = [text for pair in writing_zoo.rows(200) for text in pair]
    special = [*SPECIAL, *LANGUAGES]
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begins}$A </s>", special_tokens=[(name, number) for number, name in enumerate(special)]
    )
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, bos_token="<s>", pad_token="<pad>", unk_token="<unk>"
    )
    found.save_pretrained(folder)
    return len(found)


def make_model(family: str, folder: Path) -> Path:
    """A tiny model with drawn weights and its tokenizer; its numbers of special symbols are the family's custom."""
    size, ends = make_tokenizer(folder, begins=BEGINNINGS.get(family, "")), {"pad_token_id": 1, "eos_token_id": 2}
    starts = 2 if family in BEGINNINGS else 1
    ends |= {"decoder_start_token_id": starts, "bos_token_id": 0, "forced_eos_token_id": None}
    if family in ("t5", "mt5"):
        widths = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 2}
        config = CONFIGS[family](vocab_size=size, **widths, relative_attention_num_buckets=8, **ends)
    else:
        config = CONFIGS[family](vocab_size=size, **WIDTHS, **HEADS, **ends)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    if family == "mbart":
        model.generation_config.forced_bos_token_id = len(SPECIAL) + LANGUAGES.index("<sounds>")
    with torch.no_grad():
        for value in model.parameters():
            value += 0.3 * torch.randn_like(value)  # drawn as for training, all texts would be one symbol repeated
    model.save_pretrained(folder)
    return folder
