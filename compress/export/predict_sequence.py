"""Write with the primary model: python predict.py ["a text" ...], or one text per line on standard input.

Prints what is written for each text. Symbols that training did not have are told on standard error, and so is a text
that did not come to its end. Needs onnxruntime and numpy, and tokenizers where texts are read or written in pieces.
"""

# pyright: reportAttributeAccessIssue=false

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.dont_write_bytecode = True  # a bundle holds what was exported, and nothing else
from decoding import Decoder, Writing  # noqa: E402 # pyright: ignore[reportMissingImports] # beside this script

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("texts", nargs="*", metavar="TEXT", help="without any, one per line on standard input")
parser.add_argument("--json", action="store_true", help="a JSON object per text: what is written, and whether it ended")
asked = parser.parse_args()
here = Path(__file__).parent
bundle, vocabulary = (
    json.loads((here / f"{name}.json").read_text(encoding="utf-8")) for name in ("bundle", "vocabulary")
)
cpu, options = Path("/proc/cpuinfo"), ort.SessionOptions()
flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
if "ssse3" in flags and "vnni" not in flags:  # int8 products would saturate here
    options.add_session_config_entry("session.x64quantprecision", "1")


def read(name: str) -> bytes:
    """Return the content of a file of the bundle, which must be the one that was exported."""
    path = here / name
    if path.parent != here or path.is_symlink() or path.stat().st_size != bundle["files"][name]["size_bytes"]:
        sys.exit(f"{name} is not the file that was exported")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != bundle["files"][name]["sha256"]:
        sys.exit(f"{name} is not the file that was exported")
    return content


program = json.loads(read(bundle["primary"]))
encoder, decoder = (
    ort.InferenceSession(read(program["graphs"][name]["file"]), options, providers=["CPUExecutionProvider"])
    for name in ("encoder", "decoder")
)
writer = Decoder.of(encoder, decoder, Writing(**program["writing"]))
source, target, limit = (vocabulary[name] for name in ("source", "target", "max_length"))
PAD, END, UNKNOWN = 0, 2, 3


def open_tokenizer(side: dict) -> Any:
    """Return the tokenizer of a side that is read or written in pieces; None for characters and words."""
    if side["kind"] != "pieces":
        return None
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(side["tokenizer"])
    found.no_padding()
    found.no_truncation()
    return found


reading, spelling = open_tokenizer(source), open_tokenizer(target)
numbers = (
    {entry: number for number, entry in enumerate(source["ids"])}
    if reading
    else {symbol: number for number, symbol in enumerate(source["symbols"], start=4)}
)
sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack letters of the texts
sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # whatever the locale says, as for arguments
arguments = [os.fsencode(text).decode("utf-8", "replace") for text in asked.texts]
for text in arguments or (line.rstrip("\n") for line in sys.stdin):
    symbols = reading.encode(text).ids if reading else [*text] if source["kind"] == "characters" else text.split()
    if not text.strip() and (reading or not symbols):
        sys.exit("expected a text, got an empty one")
    if strange := sorted({str(symbol) for symbol in symbols if symbol not in numbers}):
        sys.stderr.write(f"{text}: not in training, and taken as unknown: {' '.join(strange)}\n")
    found = [numbers.get(symbol, UNKNOWN) for symbol in symbols]
    if len(found) > limit:
        sys.stderr.write(f"{text}: only the first {limit} symbols are read\n")
        found = [*found[: limit - 1], END] if reading and found[-1] == END else found[:limit]
    ids = np.array([found], np.int64)
    tokens, _, ended = writer.write(ids, np.ones_like(ids))
    written = [int(number) for number in tokens[0] if number > PAD]
    if not ended[0]:
        sys.stderr.write(f"{text}: cut after {len(written)} symbols, without an end\n")
    if spelling:
        own = [target["ids"][number] for number in written if number >= UNKNOWN]
        whole = spelling.decode([number for number in own if number >= 0]).strip()
    else:
        names = ["<unknown>" if number == UNKNOWN else target["symbols"][number - 4] for number in written]
        whole = ("" if target["kind"] == "characters" else " ").join(names)
    found = {"text": text, "written": whole, "ended": bool(ended[0])}
    sys.stdout.write((json.dumps(found, ensure_ascii=False) if asked.json else whole) + "\n")
