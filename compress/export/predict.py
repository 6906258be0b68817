"""Label preprocessed inputs with the primary model: python predict.py [inputs.npy]; see preprocessing.json."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def main() -> None:
    """Prints one label (or class index) per row; without an argument the rows of reference.npz."""
    here = Path(__file__).parent
    bundle = json.loads((here / "bundle.json").read_text())
    model = (here / bundle["primary"]).read_bytes()
    if hashlib.sha256(model).hexdigest() != bundle["files"][bundle["primary"]]["sha256"]:
        sys.exit(f"{bundle['primary']} is not the file that was exported")
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.load(here / "reference.npz")[f"input/{name}"]
    labels = json.loads((here / "labels.json").read_text())
    for index in np.asarray(session.run(None, {name: rows})[0]).argmax(-1):
        sys.stdout.write(f"{labels[index] if labels else index}\n")


if __name__ == "__main__":
    main()
