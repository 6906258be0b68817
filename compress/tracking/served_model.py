"""Answers of a bundle behind ``mlflow models serve``: texts, or image files as bytes, in; labels out.

MLflow runs this file from where it was packaged, so it imports nothing of ours.
"""

import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from onnxruntime.capi.onnxruntime_pybind11_state import Fail  # pyright: ignore[reportAttributeAccessIssue]


class Served(PythonModel):
    """The primary model of a bundle with its preprocessing and labels."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle."""
        self.here = Path(context.artifacts["bundle"])
        bundle, self.labels, self.told = (
            json.loads((self.here / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("bundle", "labels", "preprocessing")
        )
        self.shape = bundle["signature"]["inputs"][0]["shape"][1:]
        self.session = _open(self.here / bundle["primary"])
        self.names = [value.name for value in self.session.get_inputs()]
        self.tokenizer: Any = None
        if (self.here / "tokenizer.json").exists():
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_str((self.here / "tokenizer.json").read_text(encoding="utf-8"))

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] # the base says that it returns nothing
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return the label of each row with its probability; of a regression, each number by its name.

        Args:
            context: of MLflow.
            model_input: one column, of texts (two of them with a tab in between) or of image files as bytes.
            params: none are known.
        """
        del context, params
        return pd.DataFrame([self.tell(self.run(row)) for row in model_input.iloc[:, 0]])

    def run(self, row: Any) -> np.ndarray:
        """Return the outputs for one text or image file."""
        feeds = self.encode(row) if self.tokenizer is not None else {self.names[0]: self.decode(row)}
        return np.asarray(self.session.run(None, feeds)[0])[0]

    def encode(self, text: str) -> dict[str, np.ndarray]:
        """Return the tokens of a text by input; ValueError for one text where the model takes two."""
        texts = text.split("\t") if self.told["texts"] == 2 else [text]
        if len(texts) != self.told["texts"]:
            raise ValueError(f"expected two texts with a tab in between, got {text!r}")
        found = self.tokenizer.encode(*texts)
        columns = {"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}
        return {name: np.array([columns[name]], np.int64) for name in self.names}

    def decode(self, content: bytes) -> np.ndarray:
        """Return an image file as the model's input, float32 [1, C, H, W]; ValueError where training had no uint8."""
        if self.told["scale"] == 1:
            raise ValueError("expected numbers as in training, got an image file, whose pixels are uint8")
        reader = _import(self.here / "read_image.py")
        plain = {"size": self.shape[1:], "channels": "grayscale" if self.shape[0] == 1 else "rgb"}
        steps = self.told.get("files", plain)
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in steps.items()}
        pixels = reader.read_image(io.BytesIO(content), reader.Steps(**fields))[None].astype(np.float32)
        mean, std = (np.array(self.told.get(*part), np.float32).reshape(-1, 1, 1) for part in (("mean", 0), ("std", 1)))
        return (pixels * self.told["scale"] - mean) / std

    def tell(self, outputs: np.ndarray) -> dict[str, Any]:
        """Return what the outputs of a row say."""
        numbers = outputs.astype(np.float64)
        problem = self.told.get("problem", "single-label")
        if problem in ("regression", "multi-label"):
            values = numbers if problem == "regression" else 1 / (1 + np.exp(-numbers))
            return dict(zip(self.labels, values.tolist(), strict=True))
        chances = np.exp(numbers - numbers.max())
        index = int(chances.argmax())
        label = self.labels[index] if self.labels else str(index)
        return {"label": label, "probability": float(chances[index] / chances.sum())}


def _open(path: Path) -> ort.InferenceSession:
    """Return a model file as a session, whose int8 products are exact where the bundle's predict.py has them so."""
    cpu, options = Path("/proc/cpuinfo"), ort.SessionOptions()
    flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    if "ssse3" in flags and "vnni" not in flags:  # int8 products would saturate here
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Fail:  # where two layers share one int8 weight; predict.py does not ask for it then
            options = ort.SessionOptions()
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _import(path: Path) -> ModuleType:
    """Return the module in a file of the bundle."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


set_model(Served())
