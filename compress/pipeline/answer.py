"""What an earlier run of the same recipe found, as long as nothing that decided it has changed.

A run that has ended notes what it was asked, the files it read and those it left. While all of them are as they were,
the same question has the same answer: nothing is measured again, so that no run on a busier machine takes the place of
a better report, and nothing is registered twice. Files are told by size and time of change, as ``make`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from compress.errors import ArtifactError
from compress.pipeline.surroundings import stamps, surroundings
from compress.recipe import Recipe
from compress.report.document import Report
from compress.store.digest import hash_values
from compress.store.document import load
from compress.store.notes import Notes


@dataclass(frozen=True)
class Question:
    """A whole run of a recipe, as it is asked for.

    Attributes:
        root: the store's directory.
        asked: stands for what decides the answer and is given; a hash, since notes are no place for names and paths.
        around: what decides it and is found on this machine, when it was asked; None when that cannot be told.
    """

    root: Path
    asked: dict[str, str]
    around: dict[str, Any] | None

    @classmethod
    def ask(cls, recipe: Recipe, *, store: Path, code: Sequence[Path], allow: Sequence[str]) -> Self:
        """Look at all that decides the answer.

        Args:
            recipe: what to do.
            store: its directory.
            code: the user's Python files that may be run.
            allow: what else of the recipe may be done.
        """
        root = store.expanduser().absolute()
        scripts = [str(path.absolute()) for path in code]
        asked = {"answer": hash_values([recipe.report_identity, scripts, sorted(allow)])}
        return cls(root, asked, surroundings(recipe, code=code))

    def find_answer(self) -> tuple[Report, Path] | None:
        """Return the report of the run that answered it, and its directory; None when it has to be run."""
        noted = None if self.around is None else Notes(self.root).find(self.asked, of=self.around)
        if noted is None:
            return None
        run_dir = self.root / "runs" / noted["run"]
        if _list_files(run_dir) != noted["files"]:
            return None
        try:
            return load(Report, run_dir / "report.json"), run_dir
        except ArtifactError:
            return None

    def note_answer(self, run_dir: Path) -> None:
        """Note that a run has answered it; only once everything of the run is written."""
        if self.around is not None:
            value = {"run": run_dir.name, "files": _list_files(run_dir)}
            Notes(self.root).keep(self.asked, value, of=self.around)


def _list_files(run_dir: Path) -> list[list[Any]]:
    """Return every file of a run relative to it, its size and its time of change: a moved store answers, too."""
    return [[str(Path(path).relative_to(run_dir)), size, changed] for path, size, changed in stamps(run_dir)]
