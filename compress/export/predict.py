"""Label images with the primary model: python predict.py [photo.jpg or images.npy ...]; see preprocessing.json.

Image files need Pillow; read_image.py reads them as training did. Arrays are raw images [N, C, H, W]: uint8, or numbers
from 0 to 1; where the model was trained on other numbers, those. A file called - is read from standard input. Prints
one label (or class index) per row; without an argument for the rows of reference.npz. Needs onnxruntime and numpy.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

import argparse
import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("files", nargs="*", metavar="FILE", help="an image or a .npy array; - is standard input")
parser.add_argument("--inputs", action="store_true", help="arrays are taken as they are, preprocessed already")
parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="rows in one call of the model (64)")
parser.add_argument("--probabilities", action="store_true", help="every label with its probability, likeliest first")
parser.add_argument("--json", action="store_true", help="a JSON object per row: label and probabilities")
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
name, shape = session.get_inputs()[0].name, bundle["signature"]["inputs"][0]["shape"][1:]
of_bytes = told.get("scale", 1) != 1  # trained on uint8 images
mean, std = (np.array(told.get(*part), np.float32).reshape(-1, 1, 1) for part in (("mean", 0), ("std", 1)))


def read(path: str) -> np.ndarray:
    """Return the array in a file, or the image in it as training read it, uint8 [1, C, H, W]."""
    content = sys.stdin.buffer.read() if path == "-" else b""
    if path.endswith(".npy") or content.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(content) if content else path)
    sys.path.insert(0, str(here))
    sys.dont_write_bytecode = True  # a bundle holds what was exported, and nothing else
    from read_image import Steps, read_image

    plain = {"size": shape[1:], "channels": "grayscale" if shape[0] == 1 else "rgb"}
    steps = {key: tuple(item) if isinstance(item, list) else item for key, item in told.get("files", plain).items()}
    return read_image(io.BytesIO(content) if content else path, Steps(**steps))[None]


def preprocess(rows: np.ndarray) -> np.ndarray:
    """Return raw images as inputs of the model; ValueError for what it was not trained on."""
    scaled = rows.dtype != np.uint8
    if scaled and of_bytes:
        refuse_beyond(rows, 0, 1, "uint8, or numbers from 0 to 1 (--inputs takes preprocessed arrays)")
    if not scaled and not of_bytes:
        raise ValueError("expected numbers as in training, got uint8")
    return (rows.astype(np.float32) * (1 if scaled else told["scale"]) - mean) / std


def refuse_beyond(rows: np.ndarray, low: np.ndarray | int, high: np.ndarray | int, expected: str) -> None:
    """Raise ValueError for numbers that are out of range, or none."""
    if not (rows.min() >= np.min(low) - 1e-3 and rows.max() <= np.max(high) + 1e-3):
        raise ValueError(f"expected {expected}, got {rows.dtype} from {rows.min():g} to {rows.max():g}")


def inputs_of(path: str, *, ready: bool) -> np.ndarray:
    """Return the model's inputs in a file; ValueError for those of another shape or range."""
    rows = read(path)
    rows = rows[:, None] if "scale" in told and rows.ndim == 3 and shape[0] == 1 else rows
    if "scale" in told and list(rows.shape[1:]) != shape:
        raise ValueError(f"expected images {['N', *shape]}, got {[*rows.shape]}")
    if "scale" in told and not ready:
        return preprocess(rows)
    if of_bytes:
        refuse_beyond(rows, -mean / std, (1 - mean) / std, "preprocessed images")
    return rows.astype(np.float32)


def tell(logits: np.ndarray) -> str:
    """Return what the outputs of a row say."""
    chances = np.exp(logits - logits.max(), dtype=np.float64)
    names = labels or [str(index) for index in range(len(chances))]
    pairs = [(names[index], float(chances[index] / chances.sum())) for index in np.argsort(-chances, kind="stable")]
    if asked.json:
        return json.dumps({"label": pairs[0][0], "probabilities": dict(pairs)}, ensure_ascii=False)
    return " ".join(f"{name} {chance:.4f}" for name, chance in pairs) if asked.probabilities else pairs[0][0]


sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack letters of the labels
for path in asked.files or [""]:
    try:
        reference = None if asked.files else np.load(here / "reference.npz")[f"input/{name}"]
        rows = inputs_of(path, ready=asked.inputs) if reference is None else reference
    except ImportError:
        sys.exit(f"{path}: image files need Pillow: pip install pillow")
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    for start in range(0, len(rows), max(1, asked.batch_size)):
        for logits in np.asarray(session.run(None, {name: rows[start : start + max(1, asked.batch_size)]})[0]):
            sys.stdout.write(f"{tell(logits)}\n")
