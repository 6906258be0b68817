"""The data section of a recipe."""

from collections.abc import Sequence
from pathlib import Path

from compress.choice import Values
from compress.data.roles import Overlap, Split, assign
from compress.data.samples import Data
from compress.data.sources import AnySource
from compress.tasks.image_classification import Augment


class DataConfig(Values):
    """Where samples come from, which role each plays, and how training varies them.

    Attributes:
        source: a place that samples come from.
        split: sizes of the roles that the source does not fix.
        overlap: what to do with train samples that are also in a role the source fixed: ``refuse`` the data, or
            ``drop-from-train`` and count them. The other roles are never touched.
        augment: views of the train samples; None trains on the plain ones.
    """

    source: AnySource
    split: Split = Split()
    overlap: Overlap = "refuse"
    augment: Augment | None = None

    def load(self, *, code: Sequence[Path] = ()) -> Data:
        """Return the samples in their roles.

        Args:
            code: the user's Python files that may be run.

        Raises:
            DataError: when the samples cannot be used as they are.
            ModelError: when the source is a user's file that ``code`` does not name.
        """
        return assign(self.source.load(code=code), split=self.split, overlap=self.overlap)
