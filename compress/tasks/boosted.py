"""Gradient-boosted trees as the simplest model of columns: numbers as they are, categories by their number."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.data.samples import Samples
from compress.tasks.linear import NEVER, train_on_one_core
from compress.tasks.simplest import Parameters, Simplest
from compress.tasks.task import Problem

MAX_TREES = 1_000  # of all outputs together
ROUNDS = (10, 100)  # of boosting, at least and at most
NODE = {
    "feature_idx": np.int32,
    "num_threshold": np.float64,
    "missing_go_to_left": np.bool_,
    "left": np.int32,
    "right": np.int32,
    "is_leaf": np.bool_,
    "value": np.float32,
}


@dataclass(frozen=True)
class BoostedTrees(Simplest):
    """scikit-learn's histogram gradient boosting (after LightGBM, Ke et al. 2017), one tree an output and round.

    Its trees are read out as arrays and walked here, so that nothing is pickled.

    Attributes:
        problem: what the outputs of a row are.
        outputs_count: how many there are.
        reading: everything that decides what ``columns`` and ``targets`` give.
        columns: numbers of samples, [N, F].
        targets: what is right for them, in the units of the outputs.
    """

    title: ClassVar[str] = "gradient-boosted trees on the columns"

    problem: Problem
    outputs_count: int
    reading: str
    columns: Callable[[Samples], NDArray[Any]] = field(compare=False, repr=False)
    targets: Callable[[Samples], NDArray[Any]] = field(compare=False, repr=False)

    @property
    def state(self) -> str:
        """Problem, number of outputs, and how samples are read."""
        return f"{self.problem} {self.outputs_count} {self.reading}"

    def fit(self, samples: Samples) -> Parameters:
        """Return the nodes of all trees, where each begins and which output it is of, and what outputs start at."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        columns, targets = self.columns(samples), self.targets(samples)
        rounds = int(np.clip(MAX_TREES // self.outputs_count, *ROUNDS))
        settings: dict[str, Any] = {
            "max_iter": rounds,
            "early_stopping": False,
            "random_state": 0,
            "min_samples_leaf": int(np.clip(len(columns) // 20, 1, 20)),
        }
        start = np.full(self.outputs_count, NEVER, np.float32)
        trees: list[tuple[int, Any]] = []
        if self.problem == "single-label":
            seen = np.unique(targets)
            start[seen] = 0
            if len(seen) > 1:
                model = train_on_one_core(HistGradientBoostingClassifier(**settings), columns, targets)
                written = seen if len(seen) > 2 else seen[1:]
                start[written] = model._baseline_prediction.ravel()
                for row in model._predictors:
                    trees += [(int(output), tree.nodes) for output, tree in zip(written, row, strict=True)]
        else:
            kind = HistGradientBoostingRegressor if self.problem == "regression" else HistGradientBoostingClassifier
            for output, column in enumerate(targets.T):
                if len(np.unique(column)) == 1:
                    start[output] = column[0] if self.problem == "regression" else -NEVER if column[0] else NEVER
                    continue
                model = train_on_one_core(kind(**settings), columns, column)
                start[output] = model._baseline_prediction.ravel()[0]
                trees += [(output, tree.nodes) for (tree,) in model._predictors]
        nodes = np.concatenate([tree for _, tree in trees]) if trees else np.zeros(0, [*map(tuple, NODE.items())])
        return {
            "start": start,
            "of_output": np.array([output for output, _ in trees], np.int32),
            "begins": np.cumsum([0, *(len(tree) for _, tree in trees)])[:-1].astype(np.int32),
            **{name: nodes[name].astype(kind) for name, kind in NODE.items()},
        }

    def outputs(self, parameters: Parameters, samples: Samples) -> NDArray[np.float32]:
        """Return one row a sample: of classes and labels log-odds, of a regression numbers."""
        columns = self.columns(samples).astype(np.float64)
        rows = np.arange(len(columns))
        found = np.tile(parameters["start"].astype(np.float64), (len(columns), 1))
        for output, begin in zip(parameters["of_output"], parameters["begins"], strict=True):
            at = np.full(len(columns), begin)
            while not (done := parameters["is_leaf"][at]).all():
                value = columns[rows, parameters["feature_idx"][at]]
                left = (value <= parameters["num_threshold"][at]) | (
                    np.isnan(value) & parameters["missing_go_to_left"][at]
                )
                step = np.where(left, parameters["left"][at], parameters["right"][at])
                at = np.where(done, at, begin + step)
            found[:, output] += parameters["value"][at]
        return found.astype(np.float32)
