"""What leaves the machine holds no secrets, absolute paths, users or hosts."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from compress.config.discretion import Discretion
from compress.config.secrets import address, mask, mask_message

SECRETS = [
    "http://user-4711:pw-4711@host:5000/path",
    "http://host:5000/?token=4711",
    "http://user:p@4711/w@host",
    "postgresql+psycopg://4711:p%40@host/db?password=4711&x=1",
    "mysql://:4711@host",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_addresses_keep_their_host_and_lose_their_secrets(uri):
    for text in (mask(uri), mask(f"cannot reach '{uri}', sorry"), address(uri)):
        assert "4711" not in text
        assert "host" in text
    assert mask(f"<{uri}> and more").endswith("> and more")


def test_a_library_that_quotes_a_path_without_its_host_tells_no_query_either():
    told = mask_message("HTTPConnectionPool(host='h', port=9): Max retries with url: /api/2.0?token=4711 (Caused by x)")
    assert "4711" not in told
    assert told.endswith("(Caused by x)")


@pytest.mark.parametrize("text", ["a plain text", "is it so? a=b", "me@home", "sqlite:////srv/mlflow.db", "a://b"])
def test_what_holds_no_secret_stays_as_it_is(text):
    assert mask(text) == text == address(text)


@dataclass(frozen=True)
class Place:
    python: str
    launcher: tuple[str, ...]


@pytest.fixture
def discretion(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    return Discretion(Path("/home/alice/project"), Path("/home/alice/project/compress-store"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/alice/project/data/x.csv", "data/x.csv"),
        ("/home/alice/project/../shared/x.csv", "../shared/x.csv"),
        ("/home/alice/project", "."),
        ("/home/alice/project/compress-store/runs/a", "compress-store/runs/a"),
        ("/home/bob/secret/x.csv", "x.csv"),
        ("/root/x.csv", "x.csv"),
        ("/usr/lib", "../../../usr/lib"),
        ("/home/alice/project/my_runtime.py:Mine", "my_runtime.py:Mine"),
        ("/m/01abc", "/m/01abc"),  # a class may be called so
        ("cannot open '/home/alice/project/a.so' or /home/alice/b", "cannot open './a.so' or ~/b"),
        ("see /home/alice/project-2, another", "see ~/project-2, another"),
        ("no such file: /home/bob/lib.so", "no such file: ~/lib.so"),
        ("resnet", "resnet"),
    ],
)
def test_paths_are_relative_to_the_recipe_and_name_nobody(discretion, text, told):
    assert discretion.text(text) == told


def test_a_document_keeps_its_form_and_a_launcher_loses_its_user(discretion):
    value = {"a": ["/home/alice/project/x", 1], "b": (Place("/home/alice/ov/bin/python", ("ssh", "alice@box")),)}
    assert discretion.tell(value) == {"a": ["x", 1], "b": (Place("ov/bin/python", ("ssh", "box")),)}
    assert discretion.override("teacher.weights=/home/alice/project/w.st") == "teacher.weights=w.st"
