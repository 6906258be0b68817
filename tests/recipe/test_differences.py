"""Recipes of one name are told apart by what differs."""

from compress.recipe.differences import differences

BASE = {"schema": 1, "name": "digits", "seed": 0, "stages.prune.kept_macs_fraction": 0.5, "stages.prune.steps": 1}


def test_only_what_differs_within_a_name_is_told():
    other = BASE | {"stages.prune.kept_macs_fraction": 0.3}
    alone = BASE | {"name": "spam", "seed": 7}
    assert differences([BASE, other, alone]) == ["kept_macs_fraction=0.5", "kept_macs_fraction=0.3", ""]
    assert differences([BASE]) == [""]
    assert differences([]) == []


def test_a_field_keeps_its_stage_where_two_of_them_have_one_name():
    first = BASE | {"stages.distill.epochs": 1, "stages.recover.epochs": 2}
    second = BASE | {"stages.distill.epochs": 3, "stages.recover.epochs": 4}
    assert differences([first, second])[1] == "distill.epochs=3 recover.epochs=4"


def test_a_stage_that_others_lack_is_one_word():
    more = BASE | {"stages.recover.epochs": 2, "stages.recover.batch_size": 8, "loss.kl.weight": 1.0}
    assert differences([BASE, more]) == ["no recover no loss", "recover loss"]


def test_a_field_or_a_choice_that_others_lack_is_one_word_too():
    given = BASE | {"teacher.artifact": "a"}
    made = BASE | {"teacher.model.cnn.width": 4}
    assert differences([given, made]) == ["teacher.artifact no teacher.model", "no teacher.artifact teacher.model"]


def test_many_and_long_differences_are_cut_and_counted():
    first = BASE | {f"data.{name}": "x" * 40 for name in "abcde"}
    second = BASE | {f"data.{name}": "y" for name in "abcde"}
    assert differences([first, second]) == [
        f"a={'x' * 21}... b={'x' * 21}... c={'x' * 21}... and 2 more",
        "a=y b=y c=y and 2 more",
    ]


def test_tracking_and_schema_tell_nothing():
    assert differences([BASE, BASE | {"tracking.uri": "http://a", "schema": 2}]) == ["", ""]
