"""Notes: small JSON values that save the next command work it has done before.

A note is found by its name and counts only while what it was made from is the same, so it never has to be right for
ever: whatever decides the value stands beside it, our own source and the versions of libraries always. Notes lie
outside the artifacts; all of them may be deleted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import EnvironmentFault
from compress.store.digest import hash_values
from compress.store.disk import write_atomically
from compress.store.made_by import made_by


@dataclass(frozen=True)
class Notes:
    """The notes of a store.

    Attributes:
        root: the store's directory; it need not exist.
    """

    root: Path

    def find(self, name: Any, *, of: Any) -> Any:
        """Return a value that was kept under this name and made from the same; None when there is none.

        Args:
            name: what is asked, JSON values.
            of: everything else that decides the value besides the code, JSON values.
        """
        try:
            kept = json.loads(self._path(name).read_text(encoding="utf-8"))
            sound = kept["of"] == _state(of) and kept["digest"] == hash_values(kept["value"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # there is none, or it was damaged
            return None
        return kept["value"] if sound else None

    def keep(self, name: Any, value: Any, *, of: Any) -> None:
        """Keep a value, in the place of an earlier one of that name.

        Where the store cannot be written nothing is kept: the next command works again, and says the same.

        Args:
            name: as for ``find``.
            value: JSON values, other than None.
            of: as for ``find``.
        """
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            note = {"name": name, "of": _state(of), "digest": hash_values(value), "value": value}
            write_atomically(path, json.dumps(note))
        except (OSError, EnvironmentFault):
            return

    def _path(self, name: Any) -> Path:
        return self.root / "notes" / f"{hash_values(name)[:32]}.json"


def _state(of: Any) -> str:
    return hash_values([of, made_by()])
