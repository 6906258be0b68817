"""Writes the pages of the Python API from its docstrings: `make docs`; a warning of pdoc is an error."""

import sys
import warnings
from pathlib import Path

import pdoc

import compress

SHOWN = ("compress", r"!compress\..+", "compress.functional", "compress.testing", "compress.errors")


def main(target: Path) -> None:
    """Write one page for each module of the public interface."""
    for name in compress.__all__:  # they are imported on first use, and pdoc looks for what is there
        setattr(compress, name, getattr(compress, name))
    pdoc.render.configure(docformat="google", show_source=False, search=False, footer_text="compress")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pdoc.pdoc(*SHOWN, output_directory=target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
