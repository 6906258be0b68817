"""Secrets in addresses: a user and a password before the host, and whatever stands in a query."""

import re

MASK = "***"
USER = re.compile(r"(?<=://)[^\s'\"<>]*@")  # up to the last one: a password may hold an @, and what follows a slash
QUERY = re.compile(r"(?<=[\w/.\])])\?[^\s'\"<>?=]*=[^\s'\"<>]*")


def masked(text: str) -> str:
    """Return a text with the user, password and query of every address in it replaced by ``***``."""
    return USER.sub(f"{MASK}@", QUERY.sub(f"?{MASK}", text))


def address(uri: str) -> str:
    """Return an address without user, password and query: what a person names it by."""
    return USER.sub("", QUERY.sub("", uri))
