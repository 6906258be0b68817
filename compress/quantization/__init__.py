"""Quantization: a plan keyed by module path, calibration in ONNX Runtime, and the writer of int8 graphs."""
