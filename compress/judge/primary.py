"""Which file of a bundle is the primary one, where the recipe leaves that to the race (``primary: auto``)."""

from collections.abc import Sequence
from dataclasses import replace

from compress.judge.contenders import Contender
from compress.judge.gates import find_better
from compress.judge.race import Race
from compress.recipe import Recipe


def choose_primary(recipe: Recipe, contenders: Sequence[Contender], race: Race) -> tuple[list[Contender], Race]:
    """Return files and race with the file last that serves the gates best on select, under the name of what ships.

    They stay as they are where the recipe names its primary file, or leaves it open and no other one is better.

    Args:
        recipe: the gates.
        contenders: all files, the one that the bundle was written for last.
        race: of them.
    """
    shipped = contenders[-1]
    better = find_better(recipe, contenders, race) if shipped.artifact.facts.get("auto") else None
    if better is None:
        return list(contenders), race
    former = shipped.artifact.facts["primary"]
    names = {better.name: shipped.name, shipped.name: f"{shipped.name}:{former}"}
    by_name = {entry.name: entry for entry in contenders}
    swapped = {
        better.name: replace(shipped, name=names[shipped.name], variant=former),
        shipped.name: replace(by_name[better.name], name=shipped.name),
    }
    ordered = [swapped.get(entry.name, entry) for entry in contenders]
    return ordered, replace(race, result=race.result.rename(names, order=[entry.name for entry in ordered]))
