"""Label texts with the primary model: python predict.py ["a text" ...], or one text per line on standard input.

Prints one label per text with its probability; for models of words, each word with its label. Models of two texts read
them with a tab in between. Needs onnxruntime, numpy and tokenizers.
"""

# pyright: reportAttributeAccessIssue=false

import argparse
import faulthandler
import hashlib
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("texts", nargs="*", metavar="TEXT", help="without any, one per line on standard input")
parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="texts read at a time (1)")
parser.add_argument(
    "--probabilities", action="store_true", help="of classes, each with its probability, likeliest first"
)
parser.add_argument("--json", action="store_true", help="a JSON object per text")
asked = parser.parse_args()
here = Path(__file__).parent
bundle, labels, preprocessing = (
    json.loads((here / f"{name}.json").read_text(encoding="utf-8")) for name in ("bundle", "labels", "preprocessing")
)
path = here / bundle["primary"]
if path.parent != here or path.is_symlink() or path.stat().st_size != bundle["files"][path.name]["size_bytes"]:
    sys.exit(f"{bundle['primary']} is not the file that was exported")
model = path.read_bytes()
if hashlib.sha256(model).hexdigest() != bundle["files"][bundle["primary"]]["sha256"]:
    sys.exit(f"{bundle['primary']} is not the file that was exported")
cpu, options = Path("/proc/cpuinfo"), ort.SessionOptions()
flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
if "ssse3" in flags and "vnni" not in flags:  # int8 products would saturate here
    options.add_session_config_entry("session.x64quantprecision", "1")
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_str((here / "tokenizer.json").read_text(encoding="utf-8"))
names = [value.name for value in session.get_inputs()]
per_word = len(bundle["signature"]["outputs"][0]["shape"]) == 3
sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # a terminal may lack letters of the labels
sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # whatever the locale says, as for arguments


def encode(text: str) -> Encoding:
    """Return the tokens of a text; of two, with a tab in between."""
    texts = text.split("\t") if preprocessing["texts"] == 2 else [text]
    if len(texts) != preprocessing["texts"]:
        sys.exit(f"expected two texts with a tab in between, got {text!r}")
    # A regular expression of the tokenizer's own may never end, and nothing in Python can interrupt it.
    faulthandler.dump_traceback_later(60 + len(text) / 10_000, exit=True)
    found = (
        tokenizer.encode(text.split(), is_pretokenized=True)
        if per_word
        else tokenizer.encode(texts[0], texts[1] if len(texts) == 2 else None)
    )
    faulthandler.cancel_dump_traceback_later()
    return found


def run(encodings: list[Encoding]) -> dict[int, np.ndarray]:
    """Return the logits by position; texts of one length share a call, so that none is padded."""
    found: dict[int, np.ndarray] = {}
    for length in {len(encoding.ids) for encoding in encodings}:
        places = [place for place, encoding in enumerate(encodings) if len(encoding.ids) == length]
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        feeds = {
            name: np.array([getattr(encodings[place], columns[name]) for place in places], np.int64) for name in names
        }
        found |= dict(zip(places, np.asarray(session.run(None, feeds)[0]), strict=True))
    return found


def tell(text: str, encoding: Encoding, logits: np.ndarray) -> str:
    """Return what the outputs of a text say."""
    if per_word:
        firsts = {word: token for token, word in reversed([*enumerate(encoding.word_ids)]) if word is not None}
        tags = [(word, labels[logits[firsts[n]].argmax()]) for n, word in enumerate(text.split()) if n in firsts]
        shown = json.dumps({"text": text, "words": tags}, ensure_ascii=False)
        return shown if asked.json else " ".join(f"{word}/{label}" for word, label in tags)
    if preprocessing["problem"] in ("regression", "multi-label"):
        digits = 4 if preprocessing["problem"] == "regression" else 2
        numbers = logits if preprocessing["problem"] == "regression" else 1 / (1 + np.exp(-logits))
        values = dict(zip(labels, numbers.tolist(), strict=True))
        shown = json.dumps({"text": text, "values": values}, ensure_ascii=False)
        return shown if asked.json else " ".join(f"{label} {value:.{digits}f}" for label, value in values.items())
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    pairs = [(labels[index], float(chances[index])) for index in np.argsort(-chances, kind="stable")]
    if asked.json:
        return json.dumps({"text": text, "label": pairs[0][0], "probabilities": dict(pairs)}, ensure_ascii=False)
    return " ".join(f"{label} {chance:.2f}" for label, chance in (pairs if asked.probabilities else pairs[:1]))


arguments = [os.fsencode(text).decode("utf-8", "replace") for text in asked.texts]
waiting = iter(arguments or (line.rstrip("\n") for line in sys.stdin))
while texts := list(itertools.islice(waiting, max(1, asked.batch_size))):
    encodings = [encode(text) for text in texts]
    outputs = run(encodings)
    for place, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        sys.stdout.write(f"{tell(text, encoding, outputs[place])}\n")
