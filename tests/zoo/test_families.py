"""Architectures of torchvision, timm and transformers are what docs/families.md says, where these are installed."""

import importlib.util

import pytest
from families import ARCHITECTURES, look, read

PACKAGES = {"torchvision detection": "torchvision"}


def test_the_document_has_them_all_in_order():
    assert [*read()] == ["architecture", *ARCHITECTURES]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_what_the_document_says(name):
    library = ARCHITECTURES[name].library
    if importlib.util.find_spec(PACKAGES.get(library, library)) is None:
        pytest.skip(f"{library} is not installed")
    assert look(name) == read()[name], "python tests/zoo/families.py writes docs/families.md anew"
