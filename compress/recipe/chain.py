"""Whether stages can follow each other: what one leaves is what the next one takes."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from compress.store.manifest import Kind

NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
# Rows of every result table.
RESERVED = frozenset({"teacher", "teacher-static", "teacher-dynamic", "student", "benchmark"})
WORDS: dict[Kind, str] = {"model": "a float model", "quantized": "a quantized model", "bundle": "a bundle"}


@dataclass(frozen=True)
class Link:
    """One stage of a chain, known at least by name.

    Attributes:
        name: unique in the pipeline.
        takes: kinds it can start from; None when the recipe names no stage that exists.
        leaves: the kind it leaves; None likewise.
    """

    name: str
    takes: frozenset[Kind] | None
    leaves: Kind | None


def chain_faults(
    links: Sequence[Link], *, baselines: Collection[str], judged: bool
) -> list[tuple[tuple[str | int, ...], str]]:
    """Return what makes a chain impossible, each with its location in a recipe.

    Args:
        links: the stages in order.
        baselines: names of the other rows of the result table.
        judged: whether gates are set.
    """
    faults: list[tuple[tuple[str | int, ...], str]] = []
    left: Kind | None = "model"
    before = "student"
    for index, link in enumerate(links):
        where = ("stages", index)
        if link.name in {other.name for other in links[:index]}:
            faults.append((where, f"a stage is named {link.name!r} already; give this one a `name` of its own"))
        elif link.name in RESERVED or link.name in baselines:
            faults.append((where, f"{link.name!r} is the name of another row of the result; give the stage another"))
        elif not NAME.fullmatch(link.name):
            faults.append((where, f"a name is lower-case letters, digits, - and _, at most 40; got {link.name!r}"))
        if link.takes is not None and left is not None and left not in link.takes:
            takes = " or ".join(WORDS[kind] for kind in sorted(link.takes))
            faults.append(
                (where, f"{link.name!r} cannot follow {before!r}: it takes {takes}, and that leaves {WORDS[left]}")
            )
        left = link.leaves
        before = link.name
    if judged and left not in ("bundle", None):
        faults.append((("gates",), "gates judge the exported file, and no stage exports one; end with `- export`"))
    return faults
