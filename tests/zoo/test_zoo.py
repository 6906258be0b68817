"""Strangers' architectures: each is cut, proved, exported, quantized and trained, or refused in a sentence."""

import pytest
from architectures import ZOO
from suite import EXACT, look, read

FEW = ("LeNet of a tutorial, view(-1, 64)", "weight_norm, old", "ShuffleNet v2", "GRU over words", "Maxout")


def check(name: str) -> None:
    row = look(name)
    assert row.difference is None or row.difference < EXACT
    assert str(row) in read(), "python tests/zoo/suite.py writes docs/models.md anew"


@pytest.mark.parametrize("name", FEW)
def test_a_few_are_what_the_document_says(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if name not in FEW])
def test_all_others_are_what_the_document_says(name):
    check(name)


def test_the_document_has_every_architecture_and_no_other():
    assert [line.split(" | ")[0].removeprefix("| ") for line in read()[2:]] == list(ZOO)
