"""Libraries that are extras: imported where a recipe names something of theirs, and nowhere before."""

import importlib
from typing import Any

from compress.errors import EnvironmentFault


def import_extra(name: str, *, extra: str) -> Any:
    """Return a module of a library that is an extra.

    Args:
        name: of the module.
        extra: of ours that brings the library.

    Raises:
        EnvironmentFault: when it is not installed or does not import.
    """
    library = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise EnvironmentFault(
            f"{library} does not import",
            got=error,
            where=f"a model of {library}",
            hint=f"pip install 'compress-onnx[{extra}]'",
        ) from error
