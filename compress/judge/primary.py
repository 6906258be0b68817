"""Which file of a bundle is the primary one, where the recipe leaves that to the race (``primary: auto``)."""

from collections.abc import Sequence
from dataclasses import replace

from compress.export.onnx_file import MAX_INLINE_BYTES
from compress.judge.contenders import Contender
from compress.judge.gates import find_better
from compress.judge.race import Race
from compress.recipe import Recipe


def choose_primary(recipe: Recipe, contenders: Sequence[Contender], race: Race) -> tuple[list[Contender], Race]:
    """Return files and race with the file last that serves the gates best on select, under the name of what ships.

    They stay as they are where the recipe names its primary file, or leaves it open and no other one is better, or that
    one is above 2 GB.

    Args:
        recipe: the gates.
        contenders: all files, the one that the bundle was written for last.
        race: of them.
    """
    shipped = contenders[-1]
    better = find_better(recipe, contenders, race) if shipped.artifact.facts.get("auto") else None
    by_name = {entry.name: entry for entry in contenders}
    # The script of the bundle reads weights from a file of their own only if the file that it was written for has one.
    if better is None or by_name[better.name].scores.facts.size_bytes > MAX_INLINE_BYTES:
        return list(contenders), race
    former = shipped.artifact.facts["primary"]
    names = {better.name: shipped.name, shipped.name: f"{shipped.name}:{former}"}
    swapped = {
        better.name: replace(shipped, name=names[shipped.name], variant=former),
        shipped.name: replace(by_name[better.name], name=shipped.name),
    }
    ordered = [swapped.get(entry.name, entry) for entry in contenders]
    return ordered, replace(race, result=race.result.rename(names, order=[entry.name for entry in ordered]))
