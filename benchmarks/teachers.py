"""What benchmarks take from a store: the teacher of a recipe, and the output of a stage; made now where it is not."""

from compress.pipeline.nodes import TEACHER, Node, nodes
from compress.recipe import Recipe
from compress.stage import Host, Stage, Work
from compress.store.artifact import Artifact


def find_or_run(stage: Stage, source: Artifact | None, work: Work, host: Host) -> Artifact:
    """Return a stage's output from the store, or run it, with samples read as its source reads them."""
    work = work.reading(source)
    return host.store.find(stage.key(source, work, host)) or stage.run(source, work, host)  # pyright: ignore[reportArgumentType] # origins take None


def find_or_make_teacher(recipe: Recipe, work: Work, host: Host) -> Artifact:
    """Return a recipe's teacher: a stored one, or one made now.

    Args:
        recipe: names the teacher.
        work: before there is a teacher.
        host: store, execution.
    """
    (node,) = (node for node in nodes(recipe, until=TEACHER) if node.role == "teacher" and node.is_row)
    return _find_or_make(node, work, host)


def _find_or_make(node: Node, work: Work, host: Host) -> Artifact:
    source = None if node.source is None else _find_or_make(node.source, work, host)
    return find_or_run(node.stage, source, work, host)
