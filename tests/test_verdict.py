"""The verdict: what it needs measured, what it hands to the workers, when it stops."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress.errors import StageError
from compress.recipe import Recipe
from compress.scoring import score
from compress.verdict import Contender, judge

RECIPE = """
name: raced
data: {source: digits}
teacher: {artifact: nowhere}
student: teacher
stages: [distill]
benchmark: {preset: quick, profiles: [{}]}
"""


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path())


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


@pytest.fixture
def teacher(context, trained_digits) -> Contender:
    return Contender("teacher", trained_digits, score(trained_digits, context, role="select", teacher=None))


def test_a_file_that_its_worker_cannot_load_is_told_with_the_reason(recipe, context, teacher, tmp_path):
    path = tmp_path / "broken"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"not a model")
    scores = replace(teacher.scores, artifact=replace(teacher.scores.artifact, path=path))
    contenders = [
        teacher,
        Contender("rival", teacher.artifact, teacher.scores),
        Contender("small", teacher.artifact, scores),
    ]
    with pytest.raises(StageError, match=r"(?s)small could not be measured.*INVALID_PROTOBUF.*ort-cpu-b1-t1"):
        judge(recipe, context, contenders, rivals=("rival",), work=tmp_path)


def test_a_request_to_stop_is_heard_before_the_next_profile(recipe, context, teacher, tmp_path):
    contenders = [teacher, Contender("rival", teacher.artifact, teacher.scores)]
    with pytest.raises(KeyboardInterrupt):
        judge(recipe, replace(context, interrupted=lambda: True), contenders, rivals=("rival",), work=tmp_path)
    assert np.load(tmp_path / "inputs.npz")["pixel_values"].shape == (256, 1, 8, 8)
