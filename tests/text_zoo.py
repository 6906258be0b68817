"""Text models, tokenizers and data made on the spot: small, but whole."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
)

from compress.data import Data, Samples
from compress.tasks import Judge, TextTask
from compress.tasks import Tokenizer as OurTokenizer

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
UNUSED = ["umbrella", "zeppelin", "xylophone"]  # in the vocabulary, and in no text
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?$@:/-", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]

VOCABULARY = list(dict.fromkeys([*SPECIAL, *GOOD, *BAD, *UNUSED, *FILLERS, *PIECES]))


def make_tokenizer(folder: Path, *, tokens: Sequence[str] = VOCABULARY) -> Path:
    """A WordPiece tokenizer of the words above, in this order, saved as transformers saves it."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pair = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = processors.BertProcessing(pair[1], pair[0])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **names)
    tokenizer.save_pretrained(folder)
    return folder


FIELDS = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
}
OTHER_FIELDS = {
    "distilbert": DISTILBERT,
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "deberta-v2": RELATIVE,
    "modernbert": {"local_attention": 8},  # the first layer sees all tokens, the second one four on either side
}


def make_bert(folder: Path, **changes) -> Path:
    """A checkpoint folder of a BERT encoder with a tokenizer, two layers of width 32 unless changed."""
    make_tokenizer(folder)
    BertForSequenceClassification(BertConfig(**{**FIELDS, **changes})).bert.save_pretrained(folder)
    return folder


def make_encoder(folder: Path, family: str, *, tokens: Sequence[str] = VOCABULARY, **changes) -> Path:
    """A checkpoint folder of an encoder of any family, as `make_bert`, that knows its padding token's number."""
    make_tokenizer(folder, tokens=tokens)
    fields = {**FIELDS, **OTHER_FIELDS.get(family, {}), "pad_token_id": tokens.index("[PAD]"), **changes}
    AutoModel.from_config(AutoConfig.for_model(family, **fields)).save_pretrained(folder)
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


def make_byte_bpe(folder: Path) -> Path:
    """RoBERTa's kind of tokenizer: byte-level BPE, trained on a few sentences."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sentences(), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.model.save(str(folder))  # read back, because constructors differ between versions of transformers
    RobertaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder


def make_unigram(folder: Path) -> Path:
    """XLM-R's kind of tokenizer: Unigram with word starts marked, trained on a few sentences."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(sentences(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", **names)
    tokenizer.save_pretrained(folder)
    return folder


def sentences() -> list[str]:
    """A few hundred sentences of all words."""
    rng = np.random.default_rng(1)
    return [sentence(rng, [*GOOD, *BAD]) for _ in range(300)]


def objects(values) -> np.ndarray:
    """An array of objects, one for each value."""
    found = np.empty(len(values), object)
    found[:] = values
    return found


def review_data(*, kind: str = "label", count: int = 240) -> Data:
    """Reviews in all roles. Kinds: label, labels, targets, words (tags O, B-GOOD, I-GOOD) and pairs."""
    rng = np.random.default_rng(2)
    # Lengths that no two samples share would hide an order that is not kept.
    texts = [sentence(rng, GOOD if number % 2 else BAD) for number in range(count)]
    good = np.array([[sum(word in side for word in text.split()) for side in (GOOD, BAD)] for text in texts])
    inputs, labels, classes = objects(texts), (np.arange(count) % 2).astype(np.int64), ("negative", "positive")
    if kind == "labels":
        labels, classes = (good > 0).astype(np.uint8), ("good", "bad")
    elif kind == "targets":
        labels, classes = (good[:, :1] - good[:, 1:]).astype(np.float32), ("score",)
    elif kind == "pairs":
        inputs = objects([(text, texts[(number + 2) % count]) for number, text in enumerate(texts)])
    elif kind == "words":
        inputs, classes = objects([tuple(text.split()) for text in texts]), ("O", "B-GOOD", "I-GOOD")
        tags = []
        for words in inputs:
            row = [int(word in GOOD) for word in words]
            tags.append(np.array([2 if row[i] and i and row[i - 1] else row[i] for i in range(len(row))], np.int64))
        labels = objects(tags)
    samples = Samples(inputs, labels)
    sizes = {"train": range(100), "calibration": range(100, 140), "select": range(140, 190), "test": range(190, count)}
    return Data({role: samples.take(np.array(rows)) for role, rows in sizes.items()}, classes)


def text_task(folder: Path, data: Data, *, max_length: int = 48) -> TextTask:
    """The task for these data with the tokenizer in a folder."""
    words = data.select.labels.dtype == object
    tokenizer = OurTokenizer.load(str(folder), max_length=max_length, words=words)
    return TextTask.of(data, tokenizer=tokenizer, judge=Judge())


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
