"""Which models nothing beats."""

from collections.abc import Sequence


def optimal(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Return for each model whether no other costs at most as much and gains at least as much, one of them strictly.

    Args:
        costs: smaller is better, such as milliseconds or bytes.
        gains: larger is better, such as accuracy; one per cost.
    """
    pairs = list(zip(costs, gains, strict=True))
    return [
        not any(
            other_cost <= cost and other_gain >= gain and (other_cost, other_gain) != (cost, gain)
            for other_cost, other_gain in pairs
        )
        for cost, gain in pairs
    ]
