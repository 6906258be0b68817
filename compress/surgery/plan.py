"""What a pruning step did, as JSON values: the content of plan.json."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from compress.surgery.groups import Group
from compress.surgery.importance import Importance
from compress.surgery.widths import Choice


def describe(groups: Sequence[Group], importance: Importance, choice: Choice) -> dict[str, Any]:
    """Describe a choice of channels and why it was made.

    Args:
        groups: every prunable group of the model before the cut.
        importance: the scores that the choice was made by.
        choice: what is kept.

    Returns:
        Values that `json.dumps` takes. Importance is summarised by group (smallest, mean and largest score, and the
        largest score that was removed); member indices follow from the model and are left out.
    """
    return {
        "measure": choice.measure,
        "target": choice.target,
        "reached": choice.reached,
        "smallest_reachable": choice.smallest,
        "before": asdict(choice.before),
        "after": asdict(choice.after),
        "importance": {
            "method": importance.method,
            "samples": importance.samples,
            "gradient_ratio": importance.gradient_ratio,
        },
        "groups": [_group(group, importance, choice) for group in groups],
    }


def _group(group: Group, importance: Importance, choice: Choice) -> dict[str, Any]:
    scores, kept = importance.scores[group.name], choice.kept[group.name]
    gone = scores.clone()
    gone[kept] = -1.0  # scores are never negative
    return {
        "name": group.name,
        "kind": group.kind,
        "signature": group.signature,
        "unit": group.unit,
        "width_before": group.width,
        "width_after": len(kept),
        "kept": kept.tolist(),
        "members": [{"path": member.path, "side": member.side, "kind": member.kind} for member in group.members],
        "importance": {
            "min": float(scores.min()),
            "mean": float(scores.mean()),
            "max": float(scores.max()),
            "max_removed": float(gone.max()) if len(kept) < group.width else None,
        },
    }
