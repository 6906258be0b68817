"""Label preprocessed inputs with the primary model: python predict.py [inputs.npy]; see preprocessing.json.

Prints one label (or class index) per row; without an argument for the rows of reference.npz.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

here = Path(__file__).parent
bundle, labels = (json.loads((here / name).read_text()) for name in ("bundle.json", "labels.json"))
model = (here / bundle["primary"]).read_bytes()
if hashlib.sha256(model).hexdigest() != bundle["files"][bundle["primary"]]["sha256"]:
    sys.exit(f"{bundle['primary']} is not the file that was exported")
cpu, options = Path("/proc/cpuinfo"), ort.SessionOptions()
flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
if "ssse3" in flags and "vnni" not in flags:  # int8 products would saturate here
    options.add_session_config_entry("session.x64quantprecision", "1")
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
rows = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.load(here / "reference.npz")[f"input/{name}"]
for index in np.asarray(session.run(None, {name: rows})[0]).argmax(-1):
    sys.stdout.write(f"{labels[index] if labels else index}\n")
