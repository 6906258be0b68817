"""The files that are judged, and which of them have gates."""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.judge.scores import Scores
from compress.recipe import Limits, Recipe
from compress.stages.export import Variant
from compress.store.artifact import Artifact


@dataclass(frozen=True)
class Contender:
    """One file in the race.

    Attributes:
        name: row name.
        artifact: what the file is the ONNX form of.
        scores: its scores on select.
        variant: of a bundle; None for the one that it was written for, and for everything else.
    """

    name: str
    artifact: Artifact
    scores: Scores
    variant: Variant | None = None


def find_gated(recipe: Recipe, contenders: Sequence[Contender]) -> list[Contender]:
    """Return the files besides the primary one that have gates of their own."""
    return [entry for entry in contenders[:-1] if entry.variant in recipe.gates.variants]


def limits_of(recipe: Recipe, entry: Contender, shipped: Contender) -> Limits:
    """Return the limits of a file that has gates: the primary one has the recipe's own, a variant those of its name."""
    return recipe.gates if entry is shipped else recipe.gates.variants[entry.variant]  # pyright: ignore[reportArgumentType]


def find_needed_rows(recipe: Recipe, contenders: Sequence[Contender], *, rivals: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the rows that the verdict needs timed, by profile."""
    judged = [*find_gated(recipe, contenders), contenders[-1]]
    primary = recipe.benchmark.list_profiles()[0].name
    found = {primary: [contenders[0].name, *rivals, *(entry.name for entry in judged)]}
    for entry in judged:
        for profile in limits_of(recipe, entry, contenders[-1]).max_latency_ms:
            found.setdefault(profile, []).append(entry.name)
    return found
