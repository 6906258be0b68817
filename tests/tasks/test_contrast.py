"""Texts that teacher and student answer otherwise: which are told, in whose words, and how much of them."""

from compress.tasks.contrast import (
    ELLIPSIS,
    MOST_CHARACTERS,
    MOST_EXAMPLES,
    NOTHING,
    Contrast,
    Spelled,
    TextExample,
    contrast,
)


def spelled(answers, right, sources=None) -> Spelled:
    texts = sources or [(f"text {number}",) for number in range(len(answers))]
    return Spelled(texts, [[(name,)] for name in right], [(name,) for name in answers])


def test_classes_show_what_the_teacher_alone_gets_right():
    right = ["a", "a", "b", "b", "c"]
    teacher, student = spelled(["a", "a", "b", "a", "a"], right), spelled(["a", "b", "b", "b", "b"], right)
    assert contrast(teacher, student, writes=False) == Contrast(
        samples=5, differing=3, lost=1, examples=(TextExample(1, "text 1", "a", "a", "b"),)
    )


def test_of_texts_that_are_written_others_that_differ_follow():
    right = [[("x",), ("y",)], [("x",), ("y",)], [("x",)]]
    sources = [("one",), ("two",), ("three",)]
    teacher = Spelled(sources, right, [("x",), ("p",), ("x",)])
    student = Spelled(sources, right, [("y",), ("q",), ("z",)])
    found = contrast(teacher, student, writes=True)
    assert (found.differing, found.lost) == (3, 1)  # of the first, both are right
    assert [entry.sample for entry in found.examples] == [2, 0, 1]
    assert found.examples[1] == TextExample(0, "one", "x | y", "x", "y")


def test_of_words_those_are_named_on_which_not_all_agree():
    right, sources = [[("PER", "O", "LOC", "O")]], [("Ada", "saw", "Paris", "again")]
    teacher = Spelled(sources, right, [("PER", "O", "LOC", "LOC")])
    student = Spelled(sources, right, [("PER", "O", "PER", "O")])
    assert contrast(teacher, student, writes=False).examples == (
        TextExample(0, "Ada saw Paris again", "Paris: LOC, again: O", "Paris: LOC, again: LOC", "Paris: PER, again: O"),
    )


def test_an_empty_text_is_said_to_be_nothing():
    found = contrast(spelled(["a"], ["a"]), spelled([""], ["a"]), writes=True)
    assert found.examples == (TextExample(0, "text 0", "a", "a", NOTHING),)


def test_there_are_few_of_them_and_long_ones_are_cut():
    sources = [("x" * 1000, "y")] * 100
    found = contrast(
        spelled(["a"] * 100, ["a"] * 100, sources), spelled(["b"] * 100, ["a"] * 100, sources), writes=False
    )
    assert (found.lost, len(found.examples)) == (100, MOST_EXAMPLES)
    assert found.examples[0].source == "x" * (MOST_CHARACTERS - 1) + ELLIPSIS
