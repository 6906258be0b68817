"""Where a model's own code fails, in words: the module and the line, instead of what torch says of shapes."""

import linecache
import sys
import traceback

from torch import nn

# Frames of these are not the user's.
LIBRARIES = {"torch", "torch_pruning", "compress", *sys.stdlib_module_names}


def tell_failure(error: BaseException) -> str:
    """Return the innermost module that was running, as part of the model, and the last line of the user's code there.

    Args:
        error: raised by a call of a model, perhaps of a copy of it.
    """
    paths: dict[nn.Module, str] | None = None
    place, line = "model", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if paths is None and isinstance(owner, nn.Module):
            paths = {module: path for path, module in owner.named_modules()}
        if paths is None:
            continue
        if isinstance(owner, nn.Module) and paths.get(owner):
            place = f"model.{paths[owner]}"
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in LIBRARIES:
            line = linecache.getline(frame.f_code.co_filename, number).strip() or line
    return f"{place} (`{line}`)" if line else place
