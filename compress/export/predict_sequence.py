"""Write with the primary model: python predict.py ["a text" ...], or one text per line on standard input.

Prints what is written for each text. Symbols that training did not have are told on standard error, and so is a text
that did not come to its end. Needs onnxruntime and numpy.
"""

# pyright: reportAttributeAccessIssue=false

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from decoding import Decoder, Writing  # pyright: ignore[reportMissingImports] # beside this script

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
source, target = vocabulary["source"], vocabulary["target"]
numbers = {symbol: number for number, symbol in enumerate(source["symbols"], start=4)}
names = ["", "", "", "<unknown>", *target["symbols"]]
sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack letters of the texts
sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # whatever the locale says, as for arguments
arguments = [os.fsencode(text).decode("utf-8", "replace") for text in asked.texts]
for text in arguments or (line.rstrip("\n") for line in sys.stdin):
    symbols = [*text] if source["kind"] == "characters" else text.split()
    if not symbols:
        sys.exit("expected a text, got an empty one")
    if strange := sorted({symbol for symbol in symbols if symbol not in numbers}):
        sys.stderr.write(f"{text}: not in training, and taken as unknown: {' '.join(strange)}\n")
    if len(symbols) > vocabulary["max_length"]:
        sys.stderr.write(f"{text}: only the first {vocabulary['max_length']} symbols are read\n")
    ids = np.array([[numbers.get(symbol, 3) for symbol in symbols[: vocabulary["max_length"]]]], np.int64)
    tokens, _, ended = writer.write(ids, np.ones_like(ids))
    if not ended[0]:
        sys.stderr.write(f"{text}: cut after {writer.writing.max_length} symbols, without an end\n")
    written = [names[number] for number in tokens[0] if number > 0]
    whole = ("" if target["kind"] == "characters" else " ").join(written)
    found = {"text": text, "written": whole, "ended": bool(ended[0])}
    sys.stdout.write((json.dumps(found, ensure_ascii=False) if asked.json else whole) + "\n")
