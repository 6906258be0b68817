"""Measure deployable files against each other: size, latency, memory and accuracy, each with its uncertainty."""
