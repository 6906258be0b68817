"""A tiny real task of continuing: words and the same letters from the last to the first; tiny causal models for it."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from compress.data.answers import objects
from compress.data.roles import Split, assign
from compress.data.samples import Data, Samples
from compress.data.source import Raw
from compress.measures.judge import Judge
from compress.models import DecoderOnly
from compress.tasks import Symbols, TransductionTask

TINY = DecoderOnly(width=32, heads=2, feed_forward=64, decoder_layers=2, dropout=0, max_length=32)
CONFIGS = {"gpt2": GPT2Config, "llama": LlamaConfig, "qwen2": Qwen2Config}


def rows(count: int = 400, *, before: str = "") -> list[tuple[str, str]]:
    """Words of 2 to 6 letters and their letters from the last to the first, in capitals; ``e`` may also be left out."""
    draw, found = np.random.default_rng(0), []
    for word in dict.fromkeys("".join(draw.choice([*"aekst"], draw.integers(2, 7))) for _ in range(count)):
        turned = before + word[::-1].upper()
        found.append((word, turned))
        if word.endswith("e"):
            found.append((word, before + turned.strip()[1:]))
    return found


def data(count: int = 400, *, before: str = "") -> Data:
    """In roles by word."""
    words, turned = zip(*rows(count, before=before), strict=True)
    samples = Samples(objects(words), objects((text,) for text in turned))
    split = Split(test=40, select=40, calibration=40)
    return assign(Raw({"train": samples}, (), continues=True), split=split, overlap="refuse")


def task(found: Data) -> TransductionTask:
    return TransductionTask.of(found, symbols=Symbols(max_length=12), judge=Judge())


def write_table(path: Path, count: int = 400, *, before: str = "") -> Path:
    """The rows as CSV."""
    lines = [f"{word},{turned}\n" for word, turned in rows(count, before=before)]
    path.write_text("word,turned\n" + "".join(lines))
    return path


def make_tokenizer(folder: Path, *, family: str = "gpt2", end: bool = True, ends: bool = False) -> int:
    """Byte pairs of the rows, saved as transformers saves them.

    Args:
        folder: for the files.
        family: GPT-2 has one special token for everything and no padding, Llama a beginning before every text.
        end: whether there is an end of a sequence.
        ends: whether it is set after every text.
    """
    special = ["<|endoftext|>"] if family == "gpt2" else ["<unk>", "<s>", "</s>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = [text for pair in rows(before=" ") for text in pair]
    trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    if family != "gpt2":
        pattern = "<s> $A </s>" if ends else "<s> $A"
        backend.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"unk_token": special[0], "bos_token": special[-2 if len(special) > 1 else 0]}
    names |= {"eos_token": special[-1]} if end else {}
    found = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    found.save_pretrained(folder)
    return len(found)


def make_model(family: str, folder: Path) -> Path:
    """A tiny model with drawn weights and its tokenizer."""
    size = make_tokenizer(folder, family=family) + 8  # published models have rows that no token has
    if family == "gpt2":
        config = GPT2Config(vocab_size=size, n_embd=16, n_layer=3, n_head=4, n_positions=48, n_inner=24,
                            bos_token_id=0, eos_token_id=0)  # fmt: skip
    else:
        config = CONFIGS[family](
            vocab_size=size, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=24, max_position_embeddings=48, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.3 * torch.randn_like(value)  # drawn as for training, all texts would be one symbol repeated
    model.save_pretrained(folder)
    return folder
