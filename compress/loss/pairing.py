"""Which modules of two models go together by themselves: stages by map size or depth, and the last features."""

from collections.abc import Sequence

from torch import nn

from compress.errors import ModelError
from compress.loss.projectors import Shape
from compress.loss.taps import Tap, Trace


def spread(ours: Sequence[Tap], theirs: Sequence[Tap]) -> list[tuple[Tap, Tap]]:
    """Return pairs in order, the shorter list spread evenly over the longer, last with last.

    TinyBERT's uniform map (Jiao et al. 2020, arXiv 1909.10351, section 4.2: g(m) = 3m) for any two depths.
    """
    count = min(len(ours), len(theirs))
    picked = [[side[-(-(index + 1) * len(side) // count) - 1] for index in range(count)] for side in (ours, theirs)]
    return list(zip(*picked, strict=True))


def stage_pairs(student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
    """Return the stages of two models, paired by map size where sizes occur in both, else by relative depth.

    Raises:
        ModelError: when either model has no stages that can be told apart, or they are of different kinds.
    """
    ours, theirs = stages(student), stages(teacher)
    sizes = [{student.shape(tap)[2:]: tap for tap in ours}, {teacher.shape(tap)[2:]: tap for tap in theirs}]
    if len(student.shape(ours[0])) == 4 and len(teacher.shape(theirs[0])) == 4:
        shared = [size for size in sizes[0] if size in sizes[1]]
        if shared:
            return [(sizes[0][size], sizes[1][size]) for size in shared]
    return spread(ours, theirs)


def stages(trace: Trace) -> list[Tap]:
    """Return the ends of a model's stages, in order.

    Maps: the last module of each height and width above 1 x 1. Tokens: the layers of the longest list of modules.
    Vectors: what each activation, or else each linear layer, gives, but for the last.

    Raises:
        ModelError: when there is none.
    """
    maps: dict[Shape, Tap] = {}
    for path, seen in trace.seen.items():
        if isinstance(seen.module, nn.Sequential):
            continue  # gives what its last member gives
        if seen.output is not None and len(seen.output) == 4 and max(seen.output[2:]) > 1 and seen.calls == 1:
            size = seen.output[2:]
            maps.pop(size, None)  # keeps the order of the last
            maps[size] = Tap(path)
    layers = token_layers(trace)
    if len(layers) > 1:
        return layers
    if maps:
        return list(maps.values())
    vectors = [
        Tap(path)
        for path, seen in trace.seen.items()
        if seen.output is not None
        and len(seen.output) == 2
        and not isinstance(seen.module, nn.Dropout)
        and not any(True for _ in seen.module.parameters())
        and not any(True for _ in seen.module.children())
    ]
    if not vectors:
        vectors = [Tap(path) for path, seen in trace.seen.items() if isinstance(seen.module, nn.Linear)][:-1]
    if not vectors:
        raise ModelError(
            f"the {trace.role} has no stages that can be paired by themselves",
            where=trace.role,
            hint="name modules under pairs, as in `pairs: {layers.1: layers.3}`",
        )
    return vectors


def token_layers(trace: Trace) -> list[Tap]:
    """Return the outputs of the longest run of sibling modules that map tokens to tokens [N, L, D]."""
    families: dict[str, list[Tap]] = {}
    for path, seen in trace.seen.items():
        parent, _, index = path.rpartition(".")
        if index.isdigit() and seen.output is not None and len(seen.output) == 3:
            families.setdefault(parent, []).append(Tap(path))
    return max(families.values(), key=len, default=[])


def last_features(trace: Trace) -> Tap:
    """Return the input of the last linear layer.

    Raises:
        ModelError: when the model has none.
    """
    linear = [
        path for path, seen in trace.seen.items() if isinstance(seen.module, nn.Linear) and seen.input is not None
    ]
    if not linear:
        raise ModelError(f"the {trace.role} has no linear layer", where=trace.role, hint="name modules under pairs")
    return Tap(linear[-1], "input")
