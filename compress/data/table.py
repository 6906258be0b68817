"""Tables of text, or of numbers and categories: CSV, TSV, JSON lines, Parquet or a hub data set, one row a sample."""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import SerializerFunctionWrapHandler, model_serializer

from compress.config import HubOrFolder
from compress.data.answers import objects
from compress.data.columns import categories_of, numbers_of, widen
from compress.data.named import name_arrays
from compress.data.samples import Role, Samples
from compress.data.source import Raw, Source
from compress.data.table_file import Rows, read_table
from compress.errors import DataError, EnvironmentFault, listing

if TYPE_CHECKING:
    import pandas as pd

LATER = ("numbers", "categories", "target_text", "prompt", "completion")  # the fields that came later than stored runs
LEARNT = ("label", "labels", "targets", "tags", "target_text", "completion")
COMMIT = re.compile("[0-9a-f]{40}")  # all of it; a part of one may come to name two
CLASS_NUMBER = re.compile("-?[0-9]{1,4300}")  # Python converts no longer ones


class Columns(Source):
    """Which columns hold what; one of ``label``, ``labels``, ``targets``, ``tags``, ``target_text``, ``completion``.

    Either texts or words are to be learnt from, or numbers and categories.

    Attributes:
        text: column of a text.
        pair: column of a second text, for tasks on two.
        words: column of lists of words, instead of ``text``, for token classification.
        numbers: columns of numbers, in the order in which a model takes them.
        categories: columns of names or whole numbers that stand for something.
        label: column of one class, a name or a number.
        labels: columns of 0 or 1, one for each label of a multi-label task.
        targets: columns of numbers, for regression.
        tags: column of lists of tag names, as long as the words.
        target_text: column of a text to be written from the first one; of rows with equal texts each is right.
        prompt: column of a text that a causal model continues, instead of ``text``.
        completion: column of what continues it; of rows with equal prompts each is right.
        classes: names of the classes or tags, in label order; empty takes the sorted values of the train role, of all
            rows when the roles are drawn from one file.
    """

    text: str | None = None
    pair: str | None = None
    words: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    tags: str | None = None
    classes: tuple[str, ...] = ()
    numbers: tuple[str, ...] | None = None
    categories: tuple[str, ...] | None = None
    target_text: str | None = None
    prompt: str | None = None
    completion: str | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse columns that say nothing, or two things."""
        texts = [self.text is not None, self.words is not None, self.prompt is not None]
        if sum([*texts, bool(self.measured)]) != 1:
            raise ValueError(
                "expected text or prompt (a column of strings), words (a column of lists), or numbers and categories "
                "(columns of a table), and only one of them"
            )
        twice = [name for name in self.measured if self.measured.count(name) > 1]
        learnt = [name for name in self.measured if name in (self.label, *self.labels, *self.targets)]
        if twice or learnt:
            names = ", ".join(dict.fromkeys(twice or learnt))
            how = "twice" if twice else "as what is learnt, too"
            raise ValueError(f"expected every column once; got {names} {how}")
        if self.pair is not None and self.text is None:
            raise ValueError("pair is the column of a second text, beside text")
        given = [name for name in LEARNT if self.__dict__[name]]
        if len(given) != 1:
            told = f"{', '.join(LEARNT[:-1])} and {LEARNT[-1]}"
            raise ValueError(f"expected one of {told}; got {' and '.join(given) or 'none'}")
        if self.target_text is not None and (self.text is None or self.pair is not None or self.classes):
            raise ValueError("target_text is written from the column text, without pair and classes")
        if (self.prompt is None) != (self.completion is None) or (self.prompt is not None and self.classes):
            raise ValueError(
                "prompt and completion go together, without classes: a model continues the one by the other"
            )
        if (self.words is None) != (self.tags is None):
            raise ValueError("words and tags go together: every word has a tag")

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the columns that came later where there are none, so that stored runs are found as ever."""
        return {name: value for name, value in write(self).items() if name not in LATER or value is not None}

    @property
    def written(self) -> str | None:
        """The column of texts that are right to write."""
        return self.target_text or self.completion

    @property
    def measured(self) -> tuple[str, ...]:
        """The columns of numbers and categories."""
        return (*(self.numbers or ()), *(self.categories or ()))

    def roles(self, tables: dict[Role, Rows]) -> Raw:
        """Return the samples of some tables.

        Args:
            tables: by role.

        Raises:
            DataError: for a missing column or label, or a label that the train role does not have.
        """
        if "train" not in tables:
            raise DataError("the train role is missing", expected="train among the roles", got=sorted(tables))
        classes = self._classes(tables["train"].frame, tables["train"].where)
        inputs = self._tables(tables) if self.measured else self._texts(tables)
        roles: dict[Role, Samples] = {
            role: Samples(inputs[role], self._labels(rows.frame, classes, rows.where)) for role, rows in tables.items()
        }
        notes = tuple(note for rows in tables.values() for note in rows.notes)
        told = (*notes, *(() if self.classes else _alike(classes)))
        return Raw(roles, classes, told, continues=self.completion is not None)

    def _texts(self, tables: dict[Role, Rows]) -> dict[Role, NDArray[Any]]:
        return {role: self._inputs(rows.frame, rows.where) for role, rows in tables.items()}

    def _tables(self, tables: dict[Role, Rows]) -> dict[Role, NDArray[Any]]:
        read = [self._columns(rows.frame, rows.where) for rows in tables.values()]
        widen(read)
        pairs = zip(tables.items(), read, strict=True)
        return {role: name_arrays(found, where=rows.where) for (role, rows), found in pairs}

    def _columns(self, frame: "pd.DataFrame", where: str) -> dict[str, NDArray[Any]]:
        kinds = ((numbers_of, self.numbers or ()), (categories_of, self.categories or ()))
        return {name: read(column(frame, name, where), name, where) for read, names in kinds for name in names}

    def _inputs(self, frame: "pd.DataFrame", where: str) -> NDArray[Any]:
        names = [name for name in (self.text, self.prompt, self.pair, self.words) if name is not None]
        columns = [column(frame, name, where) for name in names]
        inputs = np.empty(len(frame), object)
        for position, values in enumerate(zip(*columns, strict=True)):
            if self.words is not None:
                inputs[position] = tuple(_list(values[0], names[0], position, where))
            else:
                texts = tuple(_text(value, name, position, where) for value, name in zip(values, names, strict=True))
                inputs[position] = texts if self.pair is not None else texts[0]
        return inputs

    def _classes(self, frame: "pd.DataFrame", where: str) -> tuple[str, ...]:
        if self.written is not None:
            return ()
        if self.classes or self.labels or self.targets:
            return self.classes or self.labels or self.targets
        name = self.label or self.tags
        assert name is not None
        values = column(frame, name, where)
        if self.tags is not None:
            seen = {tag for position, tags in enumerate(values) for tag in _list(tags, name, position, where)}
        else:
            seen = {_name(value, name, position, where) for position, value in enumerate(values)}
        numbers = all(map(CLASS_NUMBER.fullmatch, seen))
        return tuple(sorted(seen, key=lambda value: (int(value) if numbers else 0, value)))

    def _labels(self, frame: "pd.DataFrame", classes: tuple[str, ...], where: str) -> NDArray[Any]:
        if self.labels or self.targets:
            names = self.labels or self.targets
            values = [_numbers(column(frame, name, where), name, where) for name in names]
            table = np.stack(values, axis=1)
            for row, column_number in np.argwhere(~np.isin(table, (0, 1))) if self.labels else ():
                raise DataError(
                    "a label is neither 0 nor 1",
                    expected="0 or 1",
                    got=f"{table[row, column_number]:g}",
                    where=f"{where}, column {names[column_number]}, row {row + 1}",
                )
            return table.astype(np.uint8 if self.labels else np.float32)
        if self.written is not None:
            texts = enumerate(column(frame, self.written, where))
            return objects((_text(value, self.written, position, where),) for position, value in texts)
        number = {name: index for index, name in enumerate(classes)}
        name = self.label or self.tags
        assert name is not None

        def number_of(value: object, position: int) -> int:
            text = _name(value, name, position, where)
            if text not in number:
                raise DataError(
                    f"a {'tag' if self.tags else 'label'} is not among the classes",
                    expected=f"one of {listing(classes)}",
                    got=repr(text),
                    where=f"{where}, column {name}, row {position + 1}",
                    hint="name every class under classes, or correct the row",
                )
            return number[text]

        values = column(frame, name, where)
        if self.tags is None:
            return np.array([number_of(value, position) for position, value in enumerate(values)], np.int64)
        tags = np.empty(len(frame), object)
        for position, value in enumerate(values):
            found = [number_of(tag, position) for tag in _list(value, name, position, where)]
            tags[position] = np.array(found, np.int64)
        return tags


class Table(Columns):
    """A file of rows, or one file for each role: .csv, .tsv, .jsonl or .parquet, by its suffix.

    Attributes:
        path: all rows, from which the roles are drawn.
        files: or a file for each role; roles without one are drawn from train.
    """

    of_files: ClassVar[bool] = True

    source: Literal["table"] = "table"
    path: Path | None = None
    files: dict[Role, Path] = {}

    def model_post_init(self, _context: object) -> None:
        """Refuse both or neither of ``path`` and ``files``."""
        super().model_post_init(_context)
        if (self.path is None) == (not self.files):
            raise ValueError("expected either path (one file) or files (by role)")

    def load(self, *, code: Sequence[Path]) -> Raw:  # noqa: ARG002
        """Return the rows.

        Raises:
            DataError: when a file is missing, damaged or not UTF-8, or its columns are not what the fields say.
        """
        given: dict[Role, Path] = {"train": self.path} if self.path is not None else self.files
        return self.roles({role: read_table(path) for role, path in given.items()})


class HubData(Columns):
    """A data set of the Hugging Face hub, or a folder that ``datasets.load_dataset`` reads.

    Attributes:
        path: hub id or folder.
        subset: its configuration, such as ``sst2`` of glue.
        splits: which of its splits plays which role; roles that are not named are drawn from train.
        revision: a branch, tag or commit; name a commit to have the same data for ever.
    """

    libraries: ClassVar[tuple[str, ...]] = ("datasets",)

    source: Literal["hub"] = "hub"
    path: Annotated[str, HubOrFolder]
    subset: str | None = None
    splits: dict[Role, str] = {"train": "train"}
    revision: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it is a folder, or a commit of the hub: nobody can change that."""
        return Path(self.path).is_dir() or COMMIT.fullmatch(self.revision or "") is not None

    @property
    def title(self) -> str:
        """The data set's name, without its owner, and the subset."""
        return "-".join(filter(None, (self.path.rstrip("/").rpartition("/")[2], self.subset)))

    def load(self, *, code: Sequence[Path]) -> Raw:  # noqa: ARG002
        """Return the rows of the named splits; a data set that is a script is refused, by datasets from version 4 on.

        Raises:
            EnvironmentFault: when datasets is not installed, or the hub does not answer.
            DataError: when there is no such data set, split or column, or it is a script.
        """
        try:
            import datasets  # pyright: ignore[reportMissingImports] # an extra
        except ImportError as error:
            raise EnvironmentFault(
                "datasets is not installed", got=error, where=self.path, hint="pip install 'compress-onnx[hf]'"
            ) from error
        tables: dict[Role, Rows] = {}
        for role, split in self.splits.items():
            try:
                rows = datasets.load_dataset(self.path, self.subset, split=split, revision=self.revision)
            except ConnectionError as error:
                raise EnvironmentFault("the hub does not answer", got=error, where=self.path) from error
            except (OSError, ValueError, RuntimeError) as error:  # a RuntimeError where it is a script
                raise DataError("the data set cannot be read", got=error, where=f"{self.path}, {split}") from error
            frame: pd.DataFrame = rows.to_pandas()  # pyright: ignore[reportAssignmentType] # in one piece
            for name, feature in rows.features.items():
                label = getattr(feature, "feature", feature)  # of each word, or of the row
                if isinstance(label, datasets.ClassLabel):
                    frame[name] = frame[name].map(_namer(label.names, of_words=label is not feature))
            tables[role] = Rows(frame, f"{self.path}, {split}")
        return self.roles(tables)


def _alike(classes: Sequence[str]) -> tuple[str, ...]:
    """Return which classes differ by white space or case alone, in words."""
    spelt: dict[str, list[str]] = {}
    for name in classes:
        spelt.setdefault(" ".join(name.casefold().split()), []).append(name)
    alike = [" and ".join(map(repr, names)) for names in spelt.values() if len(names) > 1]
    return (f"classes that differ by white space or case alone: {listing(alike)}",) if alike else ()


def _namer(names: Sequence[str], *, of_words: bool) -> Callable[[Any], Any]:
    """Return what names a class by its number, or those of a row's words; -1 is the hub's sign for no label."""

    def name_of(number: int) -> str | None:
        return names[number] if number >= 0 else None

    return (lambda numbers: [name_of(number) for number in numbers]) if of_words else name_of


def column(frame: "pd.DataFrame", name: str, where: str) -> list[Any]:
    """Return a column's values.

    Raises:
        DataError: when there is none of this name; with the nearest one.
    """
    names = [str(found) for found in frame.columns]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        raise DataError(
            "there is no such column",
            expected=f"one of {listing(names)}",
            got=name,
            where=where,
            hint=f"did you mean {close[0]}?" if close else None,
        )
    return frame[name].tolist()


def _text(value: object, name: str, position: int, where: str) -> str:
    if not isinstance(value, str):
        raise DataError("a text is missing", got=value, where=f"{where}, column {name}, row {position + 1}")
    return value


def _list(value: object, name: str, position: int, where: str) -> list[str]:
    found = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(found, list) or not all(isinstance(entry, str | int) for entry in found):
        raise DataError(
            "a cell holds no list",
            expected="a list of strings; CSV has none, use .jsonl or .parquet",
            got=repr(value)[:80],
            where=f"{where}, column {name}, row {position + 1}",
        )
    return [str(entry) for entry in found]


def _name(value: object, name: str, position: int, where: str) -> str:
    missing = value == "" if isinstance(value, str) else isinstance(value, float) and not value.is_integer()
    if missing or not isinstance(value, str | int | float):  # None and pandas' NA are neither
        raise DataError(
            "a label is missing",
            expected="the name or number of a class",
            got=repr(value),
            where=f"{where}, column {name}, row {position + 1}",
        )
    return str(int(value)) if isinstance(value, bool | float) else str(value)


def _numbers(values: list[Any], name: str, where: str) -> NDArray[np.float64]:
    found = np.empty(len(values), np.float64)
    for position, value in enumerate(values):
        try:
            found[position] = float(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                "a number is missing", got=repr(value), where=f"{where}, column {name}, row {position + 1}"
            ) from error
    return found
