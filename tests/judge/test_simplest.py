"""The simplest model is fitted once for a store, and teacher and student stand against it in pairs."""

from dataclasses import replace

import numpy as np

from compress.judge.scores import score
from compress.judge.simplest import fit_simplest
from compress.tasks.linear import LinearPixels


def test_it_is_fitted_once_and_kept_by_content(context, teacher, monkeypatch):
    fitted = fit_simplest(*context)
    assert fitted.facts.samples == len(context.data.train)
    assert fitted.facts.size_bytes == 4 * (64 * 10 + 10)
    monkeypatch.setattr(LinearPixels, "fit", None)
    assert fit_simplest(*context).artifact == fitted.artifact
    standing = fitted.stand(teacher.scores, teacher.scores, "select")
    ahead = teacher.scores.accuracy - standing.reached.value
    assert standing.teacher == standing.shipped == fitted.lead(teacher.scores, "select")
    assert standing.teacher.value == np.float64(ahead).round(12) or abs(standing.teacher.value - ahead) < 1e-12


def test_a_cap_is_told_and_test_is_not_read(context, monkeypatch):
    monkeypatch.setattr(LinearPixels, "max_samples", 300)
    unread = {**context.data.roles, "test": None}
    fitted = fit_simplest(replace(context.work, data=replace(context.data, roles=unread)), context.host)
    assert fitted.facts.samples == 300
    assert "fitted on 300 of 1,000 samples in" in str(fitted)
    assert str(fitted).startswith("a linear model on pixels (2.6 kB, ")


def test_without_labels_in_train_there_is_none(context):
    train = replace(context.data.train, labels=None)
    data = replace(context.data, roles={**context.data.roles, "train": train})
    assert fit_simplest(replace(context.work, data=data), context.host) is None


def test_scores_on_test_are_compared_on_test(context, teacher):
    on_test = score(teacher.artifact, *context, role="test", teacher=None)
    standing = fit_simplest(*context).stand(on_test, on_test, "test")
    assert 0.8 < standing.reached.value < 1
