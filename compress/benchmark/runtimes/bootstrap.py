"""The first words of a worker, given to its interpreter with ``-c``: take the code from standard input and run it.

The first line is a JSON object, module name to source. Nothing is written to disk, so the worker runs where neither
this package nor a directory of its own exists.
"""

import importlib.abc
import importlib.util
import json
import sys

SOURCES = json.loads(sys.stdin.buffer.readline())


class Sent(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Modules whose source was sent."""

    def find_spec(self, fullname, path, target=None):  # noqa: ANN001, ANN201, ARG002, D102
        return importlib.util.spec_from_loader(fullname, self) if fullname in SOURCES else None

    def get_source(self, fullname):  # noqa: ANN001, ANN201, D102
        return SOURCES[fullname]

    def is_package(self, fullname):  # noqa: ANN001, ANN201, D102
        return "." not in fullname


sys.meta_path.insert(0, Sent())
importlib.import_module("runtimes.worker").main()
