"""Label images with the primary model: python predict.py [photo.jpg or images.npy ...]; see preprocessing.json.

Image files need Pillow; read_image.py reads them as training did. Arrays are raw images [N, C, H, W]: uint8, or numbers
from 0 to 1; where the model was trained on other numbers, those. After --inputs, arrays are taken as they are,
preprocessed already. Prints one label (or class index) per row; without an argument for the rows of reference.npz.
Needs onnxruntime and numpy.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

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
    if path.endswith(".npy"):
        return np.load(path)
    sys.path.insert(0, str(here))
    from read_image import Steps, read_image

    plain = {"size": shape[1:], "channels": "grayscale" if shape[0] == 1 else "rgb"}
    steps = {key: tuple(item) if isinstance(item, list) else item for key, item in told.get("files", plain).items()}
    return read_image(path, Steps(**steps))[None]


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


sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack letters of the labels
arguments = sys.argv[1:]
paths = [path for path in arguments if path != "--inputs"]
for path in paths or [""]:
    try:
        reference = None if paths else np.load(here / "reference.npz")[f"input/{name}"]
        rows = inputs_of(path, ready="--inputs" in arguments) if reference is None else reference
    except ImportError:
        sys.exit(f"{path}: image files need Pillow: pip install pillow")
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    for index in np.asarray(session.run(None, {name: rows})[0]).argmax(-1):
        sys.stdout.write(f"{labels[index] if labels else index}\n")
