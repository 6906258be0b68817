"""Several processes run a pipeline: the first one does all of it, and has the others share the stages that train.

The first process alone decides, commits, scores, measures, records and speaks. Where a stage trains it names the stage,
its source and its teachers, and all of them run it: they share each update and the teachers' passes. The others write
nothing but teacher outputs.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

import torch

from compress.config.user_code import telling_users
from compress.data import Data
from compress.errors import InputError, RecipeError, StageError
from compress.pipeline.nodes import Node, nodes
from compress.recipe import Recipe
from compress.stage import Execution, Group, Host, Member, Work, size_faults
from compress.stage.device import check_device
from compress.stage.group import FailedProcessError, LostProcessError, unshared
from compress.store.artifact import Artifact
from compress.store.store import Store


@dataclass(frozen=True)
class Order:
    """What all processes are to do next.

    Attributes:
        node: the row whose stage trains.
        source: the key of what it starts from.
        teachers: the key and the weight of each.
    """

    node: str
    source: str
    teachers: list[tuple[str, float]]


def is_shared(node: Node) -> bool:
    """Whether the processes share a node's stage: it trains, and not only between steps of another kind."""
    training = node.stage.training
    return training is not None and not training.within


def refuse_sizes(recipe: Recipe, data: Data, group: Group, *, until: str | None) -> None:
    """Refuse stages whose updates the train role has too few samples for, or the processes cannot share.

    Raises:
        RecipeError: with every such stage.
    """
    faults: list[str] = []
    for node in nodes(recipe, until=until):
        training = node.stage.training
        if training is not None and node.is_row:
            size = group.size if is_shared(node) else 1
            # How many samples teachers write is known once they have.
            samples = len(data.train) if training.writing is None else sys.maxsize
            found = size_faults(training.optimization, samples=samples, processes=size)
            faults += [f"{node.name}: {fault}" for fault in found]
    if faults:
        raise RecipeError("\n".join(["some updates do not fit the samples or the processes:", *faults]))


@contextmanager
def lead(group: Group) -> Iterator[None]:
    """Let the other processes go when the block has come to its end, or is given up and something else may follow.

    Where it fails otherwise, this process ends, and the others find that.
    """
    try:
        yield
    except (StageError, InputError):
        with suppress(LostProcessError):
            group.tell(None)
        raise
    group.tell(None)


def begin_together(group: Group, execution: Execution) -> None:
    """Tell the other processes how numbers are computed, which the first one has decided."""
    group.tell(asdict(execution))


def run_stage(node: Node, source: Artifact | None, work: Work, host: Host, group: Group) -> Artifact:
    """Return the output of a node's stage, which the other processes run too if it is shared.

    Raises:
        CompressError: as the stage does.
        FailedProcessError: when it fails in another process.
        LostProcessError: when another process has ended.
    """
    if group.size == 1 or source is None or not is_shared(node):
        return node.stage.run(source, work, host)  # pyright: ignore[reportArgumentType] # origins take None
    teachers = [(member.artifact.key, member.weight) for member in work.teachers]
    group.tell(asdict(Order(node.name, source.key, teachers)))
    with failing_together(group):
        return node.stage.run(source, work, replace(host, group=group))


@contextmanager
def failing_together(group: Group) -> Iterator[None]:
    """Have a shared stage fail in all processes when it fails in one; then they may go on without it, still in step."""
    try:
        with telling_users():
            yield
        group.meet()
    except FailedProcessError:
        raise
    except (StageError, InputError) as error:
        group.fail(error)
        raise


def execution_here(execution: Execution, group: Group) -> Execution:
    """Return the execution on this process's own device: accelerators of a machine are numbered as its processes are.

    Raises:
        EnvironmentFault: when there is no such device.
    """
    device = torch.device(execution.device)
    if device.index is None or group.local_rank == 0:
        return execution
    return replace(execution, device=check_device(f"{device.type}:{device.index + group.local_rank}"))


def follow(recipe: Recipe, work: Work, host: Host, group: Group, *, until: str | None) -> None:
    """Share the stages that the first process names, until it has come to its end.

    What fails in all of them, the first process goes on without, or gives up.

    Args:
        recipe: as it is run.
        work: before there is a teacher.
        host: of this process.
        group: with the first process.
        until: where the run stops.

    Raises:
        LostProcessError: when another process has ended.
    """
    rows = {node.name: node for node in nodes(recipe, until=until) if node.is_row}
    while (told := group.tell()) is not None:
        order = Order(**told)
        source = _find(order.source, host.store)
        members = [Member(_find(key, host.store), work.task, weight) for key, weight in order.teachers]
        reading, node = replace(work, teachers=tuple(members)).reading(source), rows[order.node]
        with suppress(StageError, InputError), failing_together(group):
            node.stage.run(source, reading, replace(host, group=group))


def _find(key: str, store: Store) -> Artifact:
    found = store.find(key)
    if found is None:
        raise unshared(store.root)
    return found
