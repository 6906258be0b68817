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


def surely_optimal(models: Sequence[tuple[int, tuple[float, float], tuple[float, float]]]) -> list[bool]:
    """Return for each model whether no other is at least as small, and not surely slower or less accurate.

    Surely means that intervals do not overlap. Models of one size that differ within the noise rule out none of them.

    Args:
        models: of each its bytes, the interval of its latency, and the interval of its accuracy.
    """
    return [not any(other is not own and _rules_out(other, own) for other in models) for own in models]


def _rules_out(
    other: tuple[int, tuple[float, float], tuple[float, float]],
    own: tuple[int, tuple[float, float], tuple[float, float]],
) -> bool:
    (size, time, accuracy), (own_size, own_time, own_accuracy) = other, own
    if size > own_size or own_time[1] < time[0] or own_accuracy[0] > accuracy[1]:
        return False
    return size < own_size or time[1] < own_time[0] or accuracy[0] > own_accuracy[1]
