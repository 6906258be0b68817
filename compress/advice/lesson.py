"""The lessons of a recipe: its trainings that learn from a teacher, whatever stages they are in."""

from dataclasses import dataclass

from compress.loss import GuidedLoss
from compress.recipe import Recipe
from compress.stage import Optimization


@dataclass(frozen=True)
class Lesson:
    """One training on the guided loss.

    Attributes:
        title: of its stage.
        loss: that the stage uses.
        optimization: of the stage.
        cache_limit_gb: of the teacher's stored features, in units of 10^9 bytes.
    """

    title: str
    loss: GuidedLoss
    optimization: Optimization
    cache_limit_gb: float


def lessons(recipe: Recipe) -> tuple[Lesson, ...]:
    """Return the lessons in order, the first with each loss; what trains only inside a stage is left out."""
    found: dict[str, Lesson] = {}
    for stage in recipe.stages:
        training, loss = stage.training, stage.guided_loss(recipe.loss)
        if training is not None and not training.within and stage.guided_by(recipe.loss):
            lesson = Lesson(stage.title, loss, training.optimization, training.cache_limit_gb)
            found.setdefault(loss.fingerprint, lesson)
    return tuple(found.values())
