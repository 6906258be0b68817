"""Regular expressions that a tokenizer brings along: whether they come to an end on the texts that they are to cut.

Oniguruma, which runs them, gives up a match after ten million steps, in a panic; but it tries one at every character,
so that ``a*a*a*b`` takes hours for a text of ten thousand letters. Nothing can interrupt that in a thread. So such
expressions are first run in a process that can be ended; all others are those of the library, and linear.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from compress.errors import ModelError

LEAST_S = 60.0  # that every trial may take, start of the interpreter included
CHARACTERS_PER_S = 10_000  # a hundredth of what tokenizers read on a slow core
MOST_NAMED = 16  # characters of the expressions that texts are made of
USUAL = "aA0 .\n"  # and one of each kind, for expressions that name kinds
RUN_LENGTH, PAIRS = 5_000, 500  # of one character; of two in turn
_TRIAL = """
import json, sys
from tokenizers import Tokenizer
request = json.load(sys.stdin)
try:
    tokenizer = Tokenizer.from_str(request["tokenizer"])
except Exception as error:
    sys.exit(f"no tokenizer: {error}")
tokenizer.no_truncation()
tokenizer.no_padding()
for first in range(0, len(request["texts"]), 256):
    tokenizer.encode_batch(request["texts"][first : first + 256])
"""


def own_patterns(tokenizer: str) -> list[str]:
    """Return the regular expressions that a ``tokenizer.json`` holds, but for those that only write text."""
    content = json.loads(tokenizer)
    return sorted(set(_find([content.get("normalizer"), content.get("pre_tokenizer")])))


def check_patterns(tokenizer: str, inputs: Sequence[Any]) -> None:
    """Refuse a tokenizer whose own regular expressions do not come to an end on these texts, or give them up.

    Args:
        tokenizer: the content of its ``tokenizer.json``.
        inputs: texts, pairs of texts, or sequences of words.

    Raises:
        ModelError: when they do, or the library cannot read the tokenizer.
    """
    patterns = own_patterns(tokenizer)
    texts = sorted({text for entry in inputs for text in ([entry] if isinstance(entry, str) else entry)})
    if not patterns or not texts:
        return
    limit_s = LEAST_S + sum(map(len, texts)) / CHARACTERS_PER_S
    try:
        # -P: modules of the working directory are not its business.
        trial = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL],
            input=json.dumps({"tokenizer": tokenizer, "texts": texts}).encode(),
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _endless(patterns, f"no end after {limit_s:.0f} s for {len(texts):,} texts") from None
    told = trial.stderr.decode(errors="replace").splitlines()
    if told and told[-1].startswith("no tokenizer: "):
        raise ModelError("the tokenizer cannot be read", got=told[-1].removeprefix("no tokenizer: "))
    if trial.returncode:
        given_up = next((line for line in told if line.startswith("Onig: ")), None)
        raise _endless(patterns, given_up or (told[-1] if told else f"exit code {trial.returncode}"))


def check_hostile(tokenizer: str) -> None:
    """Refuse a tokenizer whose own regular expressions do not end on texts made for that, since theirs are not known.

    Those are long runs of the characters that the expressions name, alone and in pairs, and then another one, which
    keeps expressions busy that repeat what repeats. One that is slow on other texts alone is not found so.

    Args:
        tokenizer: the content of its ``tokenizer.json``, from anybody.

    Raises:
        ModelError: when they do not, or the library cannot read the tokenizer.
    """
    named = {character for pattern in own_patterns(tokenizer) for character in pattern if character.isalnum()}
    alphabet = sorted({*sorted(named)[:MOST_NAMED], *USUAL})
    runs = [character * RUN_LENGTH for character in alphabet]
    runs += [(first + second) * PAIRS for first, second in itertools.permutations(alphabet, 2)]
    # All that they name follows, because what a text lacks altogether is not looked for.
    rest = "".join(sorted({*alphabet, *"".join(own_patterns(tokenizer))}))
    check_patterns(tokenizer, [run + end + rest for run in runs for end in ("!", "z!")])


@contextmanager
def given_up() -> Iterator[None]:
    """Turn a panic of tokenizers, which is no `Exception`, into an error of ours.

    Raises:
        ModelError: for it.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # its class has no name that could be imported
            raise
        raise _endless([], error) from error


def _endless(patterns: Sequence[str], got: object) -> ModelError:
    return ModelError(
        "the tokenizer's regular expression does not come to an end",
        got=got,
        where=f"tokenizer.json: {', '.join(patterns)}" if patterns else "tokenizer.json",
        hint="one that repeats what repeats, such as (a+)+ or a*a*b, tries every division of a text; write another",
    )


def _find(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from _find(entry)
    elif isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        for entry in value.values():
            yield from _find(entry)
