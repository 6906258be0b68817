"""Text models, tokenizers and data made on the spot: small, but whole."""

import csv
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

GOOD = ["good", "great", "lovely", "excellent", "wonderful", "pleasant", "happy", "bright"]
BAD = ["bad", "awful", "dreadful", "poor", "terrible", "nasty", "sad", "grim"]
FILLERS = [
    "the",
    "a",
    "film",
    "day",
    "book",
    "meal",
    "was",
    "is",
    "very",
    "quite",
    "rather",
    "and",
    "but",
    "with",
    "of",
    "in",
    "it",
    "this",
    "that",
    "really",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?$@:/-", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]


def make_tokenizer(folder: Path) -> Path:
    """A WordPiece tokenizer of the words above, saved as transformers saves it."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *GOOD, *BAD, *FILLERS, *PIECES])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pair = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = processors.BertProcessing(pair[1], pair[0])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **names)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return folder


def make_bert(folder: Path, **changes) -> Path:
    """A checkpoint folder of a BERT encoder with a tokenizer, two layers of width 32 unless changed."""
    make_tokenizer(folder)
    fields = {
        "vocab_size": len([*SPECIAL, *GOOD, *BAD, *FILLERS, *PIECES]),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    BertForSequenceClassification(BertConfig(**{**fields, **changes})).bert.save_pretrained(folder)
    return folder


def sentence(rng: np.random.Generator, words: list[str]) -> str:
    """A sentence of fillers and mostly the given words."""
    length = int(rng.integers(3, 18))
    drawn = rng.choice(FILLERS, length).tolist()
    for position in rng.choice(length, max(1, length // 4), replace=False):
        drawn[position] = str(rng.choice(words))
    return " ".join(drawn)


def write_reviews(path: Path, *, count: int = 400) -> Path:
    """A CSV of good and bad reviews, columns text and label."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(count):
            label = ("negative", "positive")[number % 2]
            writer.writerow([sentence(rng, GOOD if number % 2 else BAD), label])
    return path


def write_mails(path: Path, *, count: int = 1200) -> Path:
    """A CSV of made-up mails in the classes of the spam pipeline, columns text and label."""
    rng = np.random.default_rng(1)
    words = {"ham": GOOD, "hard-ham": [*GOOD, *BAD], "spam": BAD}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(count):
            label = [*words][number % 3]
            writer.writerow([f"{sentence(rng, words[label])} {number}", label])
    return path


def write_entities(path: Path, *, count: int = 1200) -> Path:
    """JSON lines of tokens and tags in the classes of the entities pipeline."""
    rng = np.random.default_rng(2)
    made = {"URL": "www.a.b", "EMAIL": "a@b.c", "MONEY": "$5", "DATE": "3 may"}
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = [*sentence(rng, GOOD).split(), str(number)]
            tags = ["O"] * len(words)
            kind = [*made][number % 4]
            inside = made[kind].split()
            place = int(rng.integers(len(words)))
            words[place:place] = inside
            tags[place:place] = [f"{'I' if position else 'B'}-{kind}" for position in range(len(inside))]
            file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    return path
