"""Whether a stage accepts a model and data, which may take a trial: proved once and noted, for plans and runs alike."""

from collections.abc import Sequence

from torch import nn

from compress.config.user_code import is_own
from compress.models import Model, describe
from compress.stage import Host, Stage, Work
from compress.store.notes import Notes


def accept(
    stage: Stage, module: nn.Module, family: Model, work: Work, host: Host, *, after: Sequence[Stage]
) -> list[str]:
    """Let a stage refuse the model and the data, unless it is known to accept them; return what it foresees.

    Some cut all texts into tokens, others try a cut. Checks of ours ask nothing of weights. Where the user's own code
    takes part each is asked every time: what that code imports and reads cannot be seen.
    """
    if is_own(type(stage)) or is_own(type(work.task)) or family.from_user:
        return _ask(stage, module, family, work, host, after=after)
    architecture = describe(module, model=family, signature=work.task.signature)
    cuts = [one.model_dump(mode="json") for one in after if one.cuts]
    name = {"check": stage.inputs(None, work, host), "model": architecture, "after": cuts}
    notes = Notes(host.store.root)
    if (told := notes.find(name, of=None)) is None:
        told = _ask(stage, module, family, work, host, after=after)
        notes.keep(name, told, of=None)
    return told


def _ask(
    stage: Stage, module: nn.Module, family: Model, work: Work, host: Host, *, after: Sequence[Stage]
) -> list[str]:
    stage.check(module, work)
    return list(stage.foresee(module, family, work, host, after=after))
