"""The small set of metrics with the same names on every run, so that any two runs share a chart.

A headline key has no slash; a curve's key begins with its section, such as ``train/``. MLflow's page cuts keys after
about eight letters, so their first six tell them apart.
"""

from collections.abc import Mapping
from typing import Any

# Fact of a scored file -> key and scale. The unit is part of the key.
_KEYS = {
    "size_bytes": ("size_mb", 1e-6),
    "parameters": ("params_m", 1e-6),
    "macs": ("macs_g", 1e-9),
    "teacher_agreement": ("agree_teacher", 1.0),
    "teacher_kl_nats": ("kl_teacher_nats", 1.0),
}


def is_headline(key: str) -> bool:
    """Return whether a metric's key is one of the headline's, which have no steps."""
    return "/" not in key


def tracked_headline(facts: Mapping[str, Any]) -> dict[str, float]:
    """Headline metrics of a scored file; a fact it lacks is left out.

    Accuracy is named after the role it was read on, because select chooses and test is the verdict.
    """
    found = {key: facts[fact] * scale for fact, (key, scale) in _KEYS.items() if facts.get(fact) is not None}
    if "accuracy" in facts:
        found[f"{facts['role']}_accuracy"] = facts["accuracy"]
    return found
