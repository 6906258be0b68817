"""What is printed at 80 and 120 columns, held against text files; ``COMPRESS_SCREENS=1`` writes them anew."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "cli" / "screens"
WIDTHS = (80, 120)


def hold(name: str, text: str, *, width: int) -> None:
    """Assert that a screen is as it was, and that nothing on it is wider than the terminal."""
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    text, path = "\n".join(lines) + "\n", FOLDER / f"{name}-{width}.txt"
    if os.environ.get("COMPRESS_SCREENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
