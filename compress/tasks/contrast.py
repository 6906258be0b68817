"""Texts that two models answer otherwise, in words: what is read, what is right, and what each of them says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Answer = tuple[str, ...]
"""A name for each word of a text, or a single one for the whole."""

MOST_EXAMPLES = 12
MOST_CHARACTERS = 400  # of one text; a document is known by its beginning
NOTHING = "(nothing)"  # stands for an empty text
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True)
class Spelled:
    """A role of texts with what is right and what one model answers.

    Attributes:
        sources: of each sample its words, or its texts.
        right: of each sample the answers that are right, at least one.
        answers: of each sample the model's.
    """

    sources: Sequence[Sequence[str]]
    right: Sequence[Sequence[Answer]]
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text and what is said of it, each cut to `MOST_CHARACTERS`."""

    sample: int
    """Its position in the role."""
    source: str
    reference: str
    teacher: str
    student: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """How a student's answers to the texts of a role differ from its teacher's.

    Attributes:
        samples: of the role.
        differing: to how many of them they answer otherwise.
        lost: how many of these the teacher alone answers rightly.
        examples: the first of those, and then, of models that write, of the other ones that differ.
    """

    samples: int
    differing: int
    lost: int
    examples: tuple[TextExample, ...]


def contrast(teacher: Spelled, student: Spelled, *, writes: bool) -> Contrast:
    """Return how the answers to the same texts differ.

    Args:
        teacher: what it answers.
        student: what it answers.
        writes: whether answers are texts, of which two that differ may both be right, or nearly so.
    """
    differing, lost = list[int](), list[int]()
    for sample, (theirs, ours, right) in enumerate(zip(teacher.answers, student.answers, teacher.right, strict=True)):
        if theirs != ours:
            differing.append(sample)
            if _loses(right, theirs, ours):
                lost.append(sample)
    shown = [*lost, *(sample for sample in differing if sample not in {*lost})] if writes else lost
    return Contrast(
        samples=len(teacher.sources),
        differing=len(differing),
        lost=len(lost),
        examples=tuple(_tell(teacher, student, sample) for sample in shown[:MOST_EXAMPLES]),
    )


def _loses(right: Sequence[Answer], theirs: Answer, ours: Answer) -> bool:
    """Whether the teacher gets the whole, or a word of it, right that the student gets wrong."""
    if len(right) > 1:
        return theirs in right and ours not in right
    return any(name == known != said for name, known, said in zip(right[0], theirs, ours, strict=True))


def _tell(teacher: Spelled, student: Spelled, sample: int) -> TextExample:
    source, right = teacher.sources[sample], teacher.right[sample]
    theirs, ours = teacher.answers[sample], student.answers[sample]
    if len(ours) == 1:
        told = (" | ".join(name for (name,) in right), theirs[0], ours[0])
        return TextExample(sample, _cut(" | ".join(source)), *map(_cut, told))
    # Of a sentence whose words have a name each, those that not all agree on.
    (tags,) = right
    words = [at for at in range(len(tags)) if len({tags[at], theirs[at], ours[at]}) > 1]
    told = (", ".join(_name(source, names, words)) for names in (tags, theirs, ours))
    return TextExample(sample, _cut(" ".join(source)), *map(_cut, told))


def _name(source: Sequence[str], names: Answer, words: Sequence[int]) -> Iterator[str]:
    return (f"{source[at]}: {names[at]}" for at in words)


def _cut(text: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text)  # data must not drive a terminal
    if not text.strip():
        return NOTHING
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + ELLIPSIS
