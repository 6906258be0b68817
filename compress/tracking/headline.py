"""The small set of metrics with the same names on every run, so that any two runs share a chart.

A headline key has no slash; a curve's key begins with its section, such as ``train/``. MLflow's page cuts keys after
about eight letters, so their first six tell them apart.
"""


def is_headline(key: str) -> bool:
    """Return whether a metric's key is one of the headline's, which have no steps."""
    return "/" not in key


def select_headline(
    *,
    role: str,
    accuracy: float,
    size_bytes: int,
    parameters: int | None = None,
    macs: int | None = None,
    teacher_agreement: float | None = None,
    teacher_kl_nats: float | None = None,
) -> dict[str, float]:
    """Headline metrics of a scored file; what is not known is left out.

    Accuracy is named after the role it was read on, because select chooses and test is the verdict. The unit is part of
    a key. The error on select is the rest of its accuracy: charts draw it against costs, so that less is better of both
    and the corner under the toolbar of MLflow's charts, at the top right, is where no model should be.
    """
    found = {
        "size_mb": size_bytes * 1e-6,
        "params_m": None if parameters is None else parameters * 1e-6,
        "macs_g": None if macs is None else macs * 1e-9,
        "agree_teacher": teacher_agreement,
        "kl_teacher_nats": teacher_kl_nats,
        f"{role}_accuracy": accuracy,
        "error_percent": 100 * (1 - accuracy) if role == "select" else None,
    }
    return {key: value for key, value in found.items() if value is not None}
