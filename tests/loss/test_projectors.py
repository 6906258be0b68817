"""The orthogonal projector against torch's own parametrization."""

import pytest
import torch
from torch.nn.utils.parametrizations import orthogonal

from compress.loss import Pair, Tap
from compress.loss.features import LastFeature
from compress.loss.projectors import Orthogonal


@pytest.mark.parametrize(("student", "teacher"), [(4, 9), (9, 4), (6, 6)])
def test_the_projector_of_last_features_stays_orthogonal(student, teacher):
    projector = LastFeature().projector(Pair(Tap("s"), Tap("t"), ((2, student), (2, teacher))))
    if student == teacher:
        torch.testing.assert_close(projector(torch.eye(student)), torch.eye(student))
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.5)
    for seed in range(3):
        projector(torch.randn(6, student, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    weight = projector(torch.eye(student)).detach()
    gram = weight @ weight.T if student < teacher else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(min(student, teacher)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("width", "mapped"), [(5, 8), (8, 5), (6, 6)])
def test_the_orthogonal_projector_is_torchs_cayley_map(width, mapped):
    projector = Orthogonal(width, mapped).double()
    turn = torch.randn(projector.turn.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    larger, smaller = turn.shape
    theirs = orthogonal(torch.nn.Linear(smaller, larger, bias=False).double(), orthogonal_map="cayley")
    with torch.no_grad():
        projector.turn.copy_(turn)
        theirs.parametrizations.weight.original.copy_(turn)
        theirs.parametrizations.weight[0].base = projector.base
        weight = theirs.weight if width <= mapped else theirs.weight.T
        torch.testing.assert_close(projector(torch.eye(width).double()), weight.T, rtol=0, atol=1e-12)
