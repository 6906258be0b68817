"""The simplest model of a task: what a larger one must beat to be worth its size."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.config.user_code import is_own, origin
from compress.data.samples import Samples

Parameters = Mapping[str, NDArray[Any]]


class Simplest(ABC):
    """A model without a network, fitted on train in seconds on one core; a task gives its own (`Task.simplest`).

    Fitting is a function of the samples alone: no time decides where it ends, only the sizes below do, and nothing is
    tried and chosen. What is fitted is arrays, so that it is stored without pickle and its size is theirs.

    Class attributes:
        title: what it is, in words.
        version: raised by hand when it computes something else.
        max_samples: of train that are fitted on; a larger role's first ones, which are a random draw.
    """

    title: ClassVar[str]
    version: ClassVar[int] = 1
    max_samples: ClassVar[int] = 20_000

    @property
    @abstractmethod
    def state(self) -> str:
        """Everything that, with its class, decides what is fitted on given samples."""

    @property
    def identity(self) -> str:
        """Class, version and state; of a class of the user's, the content of its file."""
        kind = type(self)
        return f"{origin(kind) if is_own(kind) else kind.__name__} {self.version} {self.state}"

    @abstractmethod
    def fit(self, samples: Samples) -> Parameters:
        """Return what is learnt from labelled samples, arrays of numbers by name."""

    @abstractmethod
    def outputs(self, parameters: Parameters, samples: Samples) -> NDArray[np.float32]:
        """Return the outputs of the samples' units, float32 [units, outputs], which need be no logits.

        Args:
            parameters: as ``fit`` gave them.
            samples: labels are not read.
        """
