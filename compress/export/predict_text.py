"""Label texts with the primary model: python predict.py ["a text" ...], or one text per line on standard input.

Prints one label per text with its probability; for models of words, each word with its label. Models of two texts read
them with a tab in between. Needs onnxruntime, numpy and tokenizers.
"""

# pyright: reportAttributeAccessIssue=false

import faulthandler
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

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
sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # a terminal may lack letters of the labels
sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # whatever the locale says, as for arguments
arguments = [os.fsencode(text).decode("utf-8", "replace") for text in sys.argv[1:]]
for text in arguments or (line.rstrip("\n") for line in sys.stdin):
    per_word = len(bundle["signature"]["outputs"][0]["shape"]) == 3
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
    values = {"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}
    logits = np.asarray(session.run(None, {name: np.array([values[name]], np.int64) for name in names})[0])[0]
    if per_word:
        firsts = {word: token for token, word in reversed([*enumerate(found.word_ids)]) if word is not None}
        tags = [f"{word}/{labels[logits[firsts[n]].argmax()]}" for n, word in enumerate(text.split()) if n in firsts]
        sys.stdout.write(" ".join(tags) + "\n")
    elif preprocessing["problem"] == "regression":
        sys.stdout.write(" ".join(f"{label} {value:.4f}" for label, value in zip(labels, logits, strict=True)) + "\n")
    elif preprocessing["problem"] == "multi-label":
        chances = 1 / (1 + np.exp(-logits))
        sys.stdout.write(" ".join(f"{label} {p:.2f}" for label, p in zip(labels, chances, strict=True)) + "\n")
    else:
        chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        sys.stdout.write(f"{labels[logits.argmax()]} {chances.max():.2f}\n")
