"""The libraries that a run uses beyond those that every run does: what an environment needs to repeat it."""

from compress.data.preprocess import Published
from compress.judge.simplest import Fitted
from compress.pipeline.nodes import nodes
from compress.recipe import Recipe
from compress.tasks import Task

OF_RUNTIME = {"openvino": "openvino", "ort-webgpu": "onnxruntime-ep-webgpu"}


def libraries_of(recipe: Recipe, task: Task, fitted: Fitted | None) -> tuple[str, ...]:
    """Return the distributions that decide a run's results, each once, in alphabetical order.

    Args:
        recipe: that was run.
        task: of its data.
        fitted: the simplest model of the task; None where nothing is held against it.
    """
    found = {*task.libraries, *recipe.data.source.libraries}
    for node in nodes(recipe):
        found |= {*node.stage.libraries, *(node.stage.family().libraries if node.source is None else ())}
    if isinstance(recipe.data.preprocess, Published):
        found |= {recipe.data.preprocess.library}
    if fitted is not None:
        found |= {*fitted.artifact.inputs["libraries"]}
    runtimes = {profile.runtime for profile in recipe.benchmark.list_profiles()}
    return tuple(sorted(found | {library for name, library in OF_RUNTIME.items() if name in runtimes}))
