"""A plan that was asked for before in the same words: answered from the store without reading the recipe.

`compress.pipeline.plan` notes a plan by the recipe's values, which takes the classes of everything that a recipe may
hold, and so torch. Here stand the words of the command, the text of the recipe, and what was seen around them then: as
long as all of that is as it was, so are the values, and the plan.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from compress.pipeline.planned import Plan
from compress.pipeline.surroundings import machine, named_in, read_by, stored
from compress.store.digest import hash_file
from compress.store.notes import Notes

if TYPE_CHECKING:
    from compress.recipe import Recipe

# What drivers show of accelerators. Whether torch can use them, only torch can tell: there no plan is kept.
DRIVERS = ("/dev/nvidia*", "/dev/kfd", "/dev/dri/render*", "/dev/dxg", "/dev/accel*")
LAUNCHED = ("RANK", "WORLD_SIZE")  # set by who starts several processes, which decide some of a plan


class Around(NamedTuple):
    """What was seen around a command before it was answered.

    Attributes:
        names: strings of the recipe, which may name files.
        seen: of these files, the store and the machine.
    """

    names: list[str]
    seen: dict[str, Any]


@dataclass(frozen=True)
class Typed:
    """A command that asks for a plan.

    Attributes:
        root: of the store.
        words: all that was typed, and the text of the recipe, as JSON values.
        code: the user's Python files that may be run.
        smoke: whether a smoke run is planned.
    """

    root: Path
    words: dict[str, Any]
    code: Sequence[Path]
    smoke: bool

    @classmethod
    def of(
        cls, recipe: Path, options: Mapping[str, object], *, store: Path, code: Sequence[Path], smoke: bool
    ) -> Self | None:
        """Return a command as it was typed; None where words do not say all of it.

        Args:
            recipe: its file.
            options: all arguments and options of the command by their names, those below as well.
            store: its directory.
            code: the user's Python files that may be run.
            smoke: whether a smoke run is planned.
        """
        if os.environ.keys() & {*LAUNCHED} or not recipe.is_file():
            return None
        try:
            text = hash_file(recipe)
        except OSError:  # told by who reads it
            return None
        words = {name: repr(value) for name, value in options.items()}
        words |= {"recipe": str(recipe.absolute()), "text": text, "here": str(Path.cwd())}
        return cls(store.expanduser().absolute(), words, code, smoke)

    def find_plan(self) -> Plan | None:
        """Return what was answered; None when it was not asked before, or anything is no longer as it was."""
        if list_accelerators():
            return None
        notes = Notes(self.root)
        names = notes.find({"named": self.words}, of=None)
        noted = None if names is None else notes.find({"typed": self.words}, of=self._see(names))
        return None if noted is None else Plan.read(noted)

    def look_around(self, recipe: "Recipe") -> Around | None:
        """Look at what the answer will depend on, before it is found; None where that cannot be told by looking."""
        from compress.stage.device import best_device

        if not recipe.data.source.is_settled or list_accelerators() or best_device() != "cpu":
            return None
        file = Path(self.words["recipe"])
        if hash_file(file) != self.words["text"]:  # saved anew while the libraries were loaded
            return None
        named = named_in(recipe)
        # A name that is a hub's today is that of a folder once there is one beside the recipe.
        texts = {*named} - {"", "."}
        beside = (os.path.join(file.parent, os.path.expanduser(text)) for text in texts)  # noqa: PTH111, PTH118
        names = sorted({*named, *beside})
        return Around(names, self._see(names))

    def keep(self, plan: Plan, around: Around | None) -> None:
        """Keep what was answered."""
        if around is not None:
            Notes(self.root).keep({"named": self.words}, around.names, of=None)
            Notes(self.root).keep({"typed": self.words}, asdict(plan), of=around.seen)

    def _see(self, names: Sequence[str]) -> dict[str, Any]:
        return {
            "files": read_by(names, code=self.code),
            "store": stored(self.root, smoke=self.smoke),
            "machine": machine(),
        }


def list_accelerators() -> list[str]:
    """Return what is seen of accelerators without torch: where it is nothing, torch finds none."""
    return sorted(path for pattern in DRIVERS for path in glob(pattern))
