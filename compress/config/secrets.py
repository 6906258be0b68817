"""Secrets in addresses: a user and a password before the host, and whatever stands in a query."""

import re

MASK = "***"
ADDRESS = re.compile(r"(?<=://)[^\s'\"<>]+")
USER = re.compile(r"^.*@")  # up to the last one: a password may hold an @, and what follows a slash
QUERY = re.compile(r"\?[^\s'\"<>]*=[^\s'\"<>]*")


def mask(text: str) -> str:
    """Return a text with the user, password and query of every address in it replaced by ``***``."""
    return ADDRESS.sub(lambda found: USER.sub(f"{MASK}@", QUERY.sub(f"?{MASK}", found[0])), text)


def mask_message(text: str) -> str:
    """Return what a library says of a server likewise; it may quote a path and its query without the host."""
    return QUERY.sub(f"?{MASK}", mask(text))


def address(uri: str) -> str:
    """Return an address without user, password and query: what a person names it by."""
    return ADDRESS.sub(lambda found: USER.sub("", QUERY.sub("", found[0])), uri)
