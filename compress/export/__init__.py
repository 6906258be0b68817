"""The one ONNX writer: graph, parity, metadata, bundle; and the verification that needs no torch."""
