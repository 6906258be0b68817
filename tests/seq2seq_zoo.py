"""Tiny encoder-decoders of transformers with drawn weights, and tokenizers, saved as transformers saves them."""

from pathlib import Path

import torch
import writing_zoo
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForSeq2SeqLM, BartConfig, MarianConfig, PreTrainedTokenizerFast, T5Config

WIDTHS = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def make_tokenizer(folder: Path, *, end: str | None = "</s>", begins: bool = False) -> int:
    """Byte pairs of the zoo's words and sounds, with an end after each text, saved as transformers saves it."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    texts = [text for pair in writing_zoo.rows(200) for text in pair]
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=60, special_tokens=SPECIAL, show_progress=False))
    pattern = "<s> $A </s>" if begins else "$A </s>"
    backend.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=[("<s>", 0), ("</s>", 2)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, bos_token="<s>", pad_token="<pad>", unk_token="<unk>"
    )
    found.save_pretrained(folder)
    return len(found)


def make_model(family: str, folder: Path) -> Path:
    """A tiny model with drawn weights and its tokenizer; its numbers of special symbols are the family's custom."""
    size, ends = make_tokenizer(folder, begins=family == "bart"), {"pad_token_id": 1, "eos_token_id": 2}
    starts = {"marian": 1, "t5": 1, "bart": 2}[family]
    ends |= {"decoder_start_token_id": starts, "bos_token_id": 0, "forced_eos_token_id": None}
    if family == "t5":
        config = T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_decoder_layers=3, num_heads=2,
                          relative_attention_num_buckets=8, **ends)  # fmt: skip
    else:
        config = {"marian": MarianConfig, "bart": BartConfig}[family](vocab_size=size, **WIDTHS, **HEADS, **ends)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.3 * torch.randn_like(value)  # drawn as for training, all texts would be one symbol repeated
    model.save_pretrained(folder)
    return folder
