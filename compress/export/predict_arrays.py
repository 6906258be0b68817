"""Judge rows or arrays with the primary model: python predict.py [rows.csv, rows.json or arrays.npz ...].

Rows are a CSV with the columns that training had (commas, semicolons or tabs), or JSON: a list of objects, or an object
a line, as a file called - is read from standard input. Arrays are raw, as training read them: an .npz with one by name
for each input, or an .npy of the only one. For each sample it prints a class with its probability, all labels with
theirs, numbers in the units of training, or the class of each step of a sequence; without an argument for the rows of
reference.npz. Needs onnxruntime and numpy.
"""

import argparse
import csv
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("files", nargs="*", metavar="FILE", help="rows or arrays; - is JSON lines on standard input")
parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="samples in one call of the model (256)")
parser.add_argument("--probabilities", action="store_true", help="of classes, each with its probability")
parser.add_argument("--json", action="store_true", help="a JSON object per sample")
asked = parser.parse_args()
here = Path(__file__).parent
bundle, labels, told = (
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


def read(path: str) -> dict:
    """Return what is in a file by the name of the column or array."""
    if path.endswith(".npz"):
        return dict(np.load(path))
    if path.endswith(".npy"):
        return {told["arrays"][0].get("name", ""): np.load(path)}
    text = sys.stdin.buffer.read().decode() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    if path.endswith(".json"):
        rows = json.loads(text)
    elif path == "-" or path.endswith((".jsonl", ".ndjson")):
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        header = text.strip().partition("\n")[0]
        mark = "," if "," in header and not path.endswith(".tsv") else max(";\t", key=header.count)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark))
    rows = [rows] if isinstance(rows, dict) else rows
    if not (isinstance(rows, list) and all(isinstance(row, dict) and None not in row for row in rows)):
        raise ValueError("expected rows with a value for each named column, and no more values than columns")
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def find(given: dict, name: str) -> list | np.ndarray:
    """Return a column or an array; ValueError where there is none."""
    if name not in given:
        raise ValueError(f"there is no {name!r}, but {', '.join(given) or 'nothing'}")
    return given[name]


def number(cell: Any, name: str, row: int, median: float | None) -> float:
    """Return a cell as a number; a missing one is NaN where training filled such gaps."""
    text = "nan" if cell is None or not str(cell).strip() else str(cell)
    try:
        found = float(text)
    except ValueError:
        raise ValueError(f"row {row + 1}, column {name}: expected a number, got {cell!r}") from None
    if np.isinf(found) or (np.isnan(found) and median is None):
        raise ValueError(f"row {row + 1}, column {name}: expected a number, got {cell!r}")
    return found


def category(cell: Any) -> str:
    """Return a cell as training names it: a whole number without a point, nothing as an empty string."""
    cell = cell.item() if isinstance(cell, np.generic) else cell
    if cell is None or cell != cell or not str(cell).strip():
        return ""
    whole = isinstance(cell, bool) or (isinstance(cell, float) and cell.is_integer())
    return str(int(cell)) if whole else str(cell)


def table(part: dict, given: dict) -> dict:
    """Return the inputs that columns become: numbers, flags of gaps, categories."""
    floats, flags, numbers, hot = [], [], [], []
    for column in part["numbers"]:
        name, median = column["column"], column["median"]
        cells = np.array([number(cell, name, row, median) for row, cell in enumerate(find(given, name))])
        gaps = np.isnan(cells)
        filled = np.where(gaps, median, cells) if gaps.any() else cells
        floats.append((filled - column["mean"]) / column["std"])
        flags += [gaps] if column["flagged"] else []
    for column in part["categories"]:
        known = {value: number for number, value in enumerate(column["values"], start=1)}
        cells = [category(cell) for cell in find(given, column["column"])]
        if strange := sorted({cell for cell in cells if cell not in known}):
            sys.stderr.write(f"{column['column']}: not in training, and taken as unknown: {', '.join(strange[:9])}\n")
        numbers.append(np.array([known.get(cell, 0) for cell in cells], np.int64))
        hot += [numbers[-1] == number for number in known.values()]
    floats += flags + (hot if part["encode"] == "one-hot" else [])
    inputs = {"numbers": np.stack(floats, axis=1).astype(np.float32)} if floats else {}
    return inputs | ({"categories": np.stack(numbers, axis=1)} if part["encode"] == "index" and numbers else {})


def array(part: dict, given: dict) -> dict:
    """Return an array in the shape and units that training had."""
    name = part["name"]
    values = np.asarray(find(given, name))
    if list(values.shape[1:]) != part["shape"] or values.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected numbers {['N', *part['shape']]}, got {values.dtype} {[*values.shape]}")
    if part["kind"] == "ids":
        outside = values.size and not part["low"] <= values.min() <= values.max() <= part["high"]
        if values.dtype.kind == "f" or outside:
            raise ValueError(f"{name}: expected whole numbers from {part['low']} to {part['high']}")
        return {name: values.astype(np.int64)}
    if part["scale"] != 1 and values.dtype != np.uint8:
        raise ValueError(f"{name}: expected uint8, got {values.dtype}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: expected finite numbers")
    axis = [1] * (values.ndim - 1)
    axis[1 if part["layout"] == "NTF" else 0] = -1
    mean, std = (np.array(part[side], np.float32).reshape(axis) for side in ("mean", "std"))
    found = (values.astype(np.float32) * np.float32(part["scale"]) - mean) / std
    if part["lengths"] is not None:
        lengths = np.asarray(find(given, part["lengths"]))
        if lengths.shape != (len(values),):
            raise ValueError(f"{part['lengths']}: expected one length a sample, got {[*lengths.shape]}")
        found[np.arange(values.shape[1]) >= lengths[:, None]] = 0
    return {name: found}


def tell(outputs: np.ndarray) -> str:
    """Return what the outputs of a sample say."""
    if told["problem"] == "regression":
        units = told.get("targets", {"mean": 0, "std": 1})
        values = dict(zip(labels, (outputs * np.array(units["std"]) + np.array(units["mean"])).tolist(), strict=True))
        return json.dumps(values) if asked.json else " ".join(f"{name} {value:.6g}" for name, value in values.items())
    if told["problem"] == "multi-label":
        values = dict(zip(labels, (1 / (1 + np.exp(-outputs.astype(np.float64)))).tolist(), strict=True))
        return json.dumps(values) if asked.json else " ".join(f"{name} {value:.2f}" for name, value in values.items())
    if outputs.ndim == 2:
        return tell_steps(outputs)
    chances = np.exp(outputs - outputs.max())
    values = dict(zip(labels, (chances / chances.sum()).tolist(), strict=True))
    label = labels[outputs.argmax()]
    if asked.json:
        return json.dumps({"label": label, "probabilities": values})
    shown = values if asked.probabilities else {label: values[label]}
    return " ".join(f"{name} {value:.2f}" for name, value in shown.items())


def tell_steps(outputs: np.ndarray) -> str:
    """Return what the outputs of each step of a sequence say."""
    chances = np.exp(outputs - outputs.max(axis=1, keepdims=True), dtype=np.float64)
    chances = (chances / chances.sum(axis=1, keepdims=True)).tolist()
    if asked.json:
        named = [dict(zip(labels, row, strict=True)) for row in chances]
        return json.dumps({"steps": [{"label": max(row, key=row.__getitem__), "probabilities": row} for row in named]})
    found = [(labels[np.argmax(row)], max(row)) for row in chances]
    return " ".join(f"{name}/{chance:.2f}" if asked.probabilities else name for name, chance in found)


names = [value.name for value in session.get_inputs()]
lengths = next((part["lengths"] for part in told["arrays"] if part.get("name", "") == told.get("steps_of")), None)
for path in asked.files or [""]:
    try:
        if path:
            given, ready = read(path), {}
            for part in told["arrays"]:
                ready |= table(part, given) if part["kind"] == "table" else array(part, given)
        else:
            reference = np.load(here / "reference.npz")
            ready = {name: reference[f"input/{name}"] for name in names}
        if len({len(values) for values in ready.values()}) != 1:
            raise ValueError("the inputs differ in length")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        sys.exit(f"{path}: {error}")
    for start in range(0, len(ready[names[0]]), max(1, asked.batch_size)):
        part = {name: ready[name][start : start + max(1, asked.batch_size)] for name in names}
        for row, outputs in enumerate(np.asarray(session.run(None, part)[0])):
            sys.stdout.write(f"{tell(outputs if lengths is None else outputs[: part[lengths][row]])}\n")
