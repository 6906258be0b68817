"""Which models nothing beats."""

from collections.abc import Sequence


def optimal(costs: Sequence[tuple[float, ...]]) -> list[bool]:
    """Return for each model whether no other is at most as costly in everything, and less in something.

    Args:
        costs: of each model, smaller is better: milliseconds, bytes, accuracy with its sign turned.
    """
    return [
        not any(
            other != own and all(theirs <= ours for theirs, ours in zip(other, own, strict=True)) for other in costs
        )
        for own in costs
    ]
