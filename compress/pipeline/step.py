"""A row of the pipeline."""

from dataclasses import dataclass
from typing import Any

from compress.export.manifest import Manifest
from compress.judge.scores import Scores
from compress.report.document import Role
from compress.store.artifact import Artifact
from compress.tracking import Run


@dataclass(frozen=True)
class Step:
    """A row of the pipeline: what was made or reused, its scores on select, its tracked run, the loss if it has one.

    Its role is ``teacher``, ``ensemble``, ``baseline`` or ``stage``. Of a bundle, ``primary`` is the variant that the
    scores are of; empty for everything else.
    """

    title: str
    role: Role
    artifact: Artifact
    scores: Scores
    reused: bool
    run: Run
    seconds: float
    loss_fingerprint: str | None
    primary: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage wants known, with the variant that the scores are of and its file's digest."""
        if not self.primary:
            return self.artifact.facts
        manifest = Manifest.read(self.artifact.path).lead_with(self.primary)
        return self.artifact.facts | {"primary": self.primary, "sha256": manifest.sha256}
