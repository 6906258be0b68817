"""Remove channels, heads and layers from a model by explicit indices."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.models.layer_lists import keep_layers
from compress.surgery import layers
from compress.surgery.groups import Group, Kept, check_kept, find_removed


def apply(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Remove, in place, every channel that `kept` does not name; layers that lose nothing are not touched.

    Parameters of cut layers become new objects without gradient, so optimizers and hooks on them must be rebuilt. The
    groups describe the uncut model: find them again before cutting a second time. Where a layer leaves a list, those
    behind it move up, and so do their paths.

    Args:
        model: the model that `groups` were found in, on any device.
        groups: every prunable group of the model.
        kept: channels to keep, for every group.

    Raises:
        ModelError: `kept` does not fit the groups; the model is unchanged.
    """
    check_kept(groups, kept)
    gone: dict[tuple[str, layers.Side], list[Tensor]] = defaultdict(list)
    for group in groups:
        channels = find_removed(group, kept)
        if len(channels):
            for member in group.members:
                gone[member.path, member.side].append(member.of(channels, group.width))
    # Layouts first: cutting one side of a grouped convolution can make it look like another kind of layer.
    planned = {key: layers.find(model, *key) for key in gone}
    lists = {key for key, (module, _) in planned.items() if isinstance(module, nn.ModuleList)}
    shared = [
        [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
        for names in layers.find_shared(model)
    ]
    # Whole layers last: paths are those of the uncut model.
    for (path, side), (module, found) in sorted(planned.items(), key=lambda item: item[0] in lists):
        assert found is not None
        keep = torch.ones(found.size, dtype=torch.bool)
        keep[torch.cat(gone[path, side])] = False
        if (path, side) in lists:
            keep_layers(model, path, keep.nonzero().flatten().tolist())
            continue
        parameters = list(module.parameters(recurse=False))
        device = parameters[0].device if parameters else None
        layers.select(module, side, found, keep.nonzero().flatten().to(device))
    for owners in shared:
        kept_one = getattr(*owners[0])
        for module, name in owners[1:]:
            setattr(module, name, kept_one)
