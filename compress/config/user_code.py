"""A user's own Python files: run only when the command line names them, never because a recipe does.

A recipe names a class or a function in such a file as a value, `OwnClass` or `OwnFunction`; see `Recipe.resolve`. In
Python the class's object, or the function, stands in the same place, and both are known by the content of the file and
of the user's modules that it imports (`compress.config.user_modules`).
"""

import hashlib
import importlib.util
import inspect
import sys
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, SerializationInfo, model_serializer

from compress.config.user_modules import content_of, folders_of, is_users, sha256, user_modules, with_modules
from compress.config.values import Values
from compress.errors import CompressError, InputError, nearest

# What a user's code may raise, which is anything; a script that is imported may even try to exit. KeyboardInterrupt is
# left out: Ctrl-C raises it wherever the program is.
USER_ERRORS = (Exception, SystemExit, GeneratorExit)
CONTENT = "__compress_sha256__"  # in a loaded module of the user's: its file as it was then


def run_user_file(path: Path, *, code: Sequence[Path]) -> ModuleType:
    """Run a user's Python file that the command line named, anew each time.

    Raises:
        InputError: when the file was not named, does not exist, or fails.
    """
    path = _find_named(path, code=code)
    # The name carries the content, so an edited file is never served from an earlier import.
    return _run(path, folders_of(code), name=f"compress_user_{path.stem}_{sha256(path)[:12]}")


def read_user_file(path: Path, *, code: Sequence[Path]) -> str:
    """Return the text of a user's Python file that the command line named; where it is to run is another process.

    Raises:
        InputError: when the file was not named, or does not exist.
    """
    return _find_named(path, code=code).read_text(encoding="utf-8")


def import_user_file(path: Path, *, code: Sequence[Path]) -> ModuleType:
    """Return a user's Python file as a module, run once: while it is unchanged, its classes stay the same ones.

    Raises:
        InputError: see `run_user_file`.
    """
    path, folders = _find_named(path, code=code), folders_of(code)
    return _import(path, folders, content_of(path, folders=folders))


def call_user(function: Callable[..., Any], *arguments: object, path: Path, **named: object) -> Any:
    """Return what a user's function returns.

    Raises:
        InputError: when it fails, with the user's own line.
    """
    try:
        return function(*arguments, **named)
    except USER_ERRORS as error:
        raise failure(error, path) from error


def user_function(module: ModuleType, name: str, *, path: Path) -> object:
    """Return a function of a user's module.

    Raises:
        InputError: when the module has no such name; the message lists those it has.
    """
    if name not in vars(module):
        names = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise InputError(
            f"{path.name} defines no {name!r}",
            expected=f"one of {names}",
            got=name,
            where=path,
            hint=meant(name, names),
        )
    return vars(module)[name]


def meant(word: str, choices: Sequence[str]) -> str | None:
    """Return the question whether another word was meant; None where none is like it."""
    guess = nearest(word, choices)
    return f"did you mean {guess!r}?" if guess else None


class Own(Values):
    """A value of a recipe that names something in the user's own Python file, which is not run to read the recipe.

    Attributes:
        file: the Python file.
    """

    file: Path

    @property
    def sha256(self) -> str | None:
        """Of the file, and of the user's modules that it imports, as they are now; None when there is no file."""
        return content_of(self.file) if self.file.is_file() else None

    @abstractmethod
    def find(self, *, code: Sequence[Path], where: str) -> Any:
        """Return what is named.

        Args:
            code: the user's Python files that may be run.
            where: in the recipe.

        Raises:
            InputError: when the file was not named, or there is no such thing in it.
        """


class OwnClass(Own):
    """A class in the user's own Python file, with its fields as further keys.

    Class attributes:
        bases: one of which it must be a subclass of.

    Attributes:
        file: the Python file.
        class_name: the class; ``class`` in a recipe.
    """

    model_config = ConfigDict(extra="allow")

    bases: ClassVar[tuple[type[Values], ...]]

    class_name: Annotated[str, Field(alias="class", description="the class in it")]

    @property
    def fields(self) -> dict[str, Any]:
        """The further keys, unchecked."""
        return dict(self.__pydantic_extra__ or {})

    @model_serializer(mode="plain")
    def _written(self) -> dict[str, Any]:
        """The content of the file instead of its path, as for an object of the class."""
        return {"class": f"{self.class_name} {self.sha256}", **self.fields}

    def find(self, *, code: Sequence[Path], where: str) -> type[Values]:
        """Return the class.

        Args:
            code: the user's Python files that may be run.
            where: in the recipe.

        Raises:
            InputError: when the file was not named or fails, or has no such class; with the nearest that it has.
        """
        defined = vars(import_user_file(self.file, code=code))
        found = defined.get(self.class_name)
        wanted = " or ".join(f"compress.{base.__name__}" for base in self.bases)
        if not isinstance(found, type) or not issubclass(found, self.bases):
            fitting = sorted(
                name
                for name, value in defined.items()
                if isinstance(value, type) and issubclass(value, self.bases) and is_own(value)
            )
            raise InputError(
                f"{self.file.name} has no subclass of {wanted} called {self.class_name!r}",
                expected=", ".join(fitting) or f"class {self.class_name}({wanted.split(' or ')[0]})",
                got=self.class_name if found is None else f"{self.class_name} = {found!r}",
                where=f"{where}, {self.file}",
                hint=meant(self.class_name, fitting),
            )
        missing = sorted(found.__abstractmethods__)
        if missing:
            raise InputError(
                f"{self.class_name} of {self.file.name} is not complete",
                expected=f"it to define {', '.join(missing)}",
                where=f"{where}, {self.file}",
                hint=f"{self.class_name} is a subclass of {wanted}, whose docstrings say what each returns",
            )
        return found


def dump(value: Values, info: SerializationInfo) -> dict[str, Any]:
    """Return the fields of an object of the user's class, with the class and the content of its file under ``class``.

    So a fingerprint and every key know what the class computes. This cannot be read back: only its code can make it.
    """
    fields = value.model_dump(mode=info.mode, exclude_none=info.exclude_none)
    return fields if isinstance(value, OwnClass) else {"class": str(origin(type(value))), **fields}


class OwnFunction(Own):
    """A function in the user's own Python file.

    Attributes:
        file: the Python file.
        function: its name.
    """

    function: str

    @model_serializer(mode="plain")
    def _written(self) -> str:
        """The content of the file instead of its path, as for the function itself."""
        return f"{self.function} {self.sha256}"

    def find(self, *, code: Sequence[Path], where: str) -> Callable[..., Any]:
        """Return the function.

        Args:
            code: the user's Python files that may be run.
            where: in the recipe.

        Raises:
            InputError: when the file was not named or fails, or has no such function; with the nearest that it has.
        """
        found = user_function(import_user_file(self.file, code=code), self.function, path=self.file)
        if not inspect.isfunction(found):
            raise InputError(
                f"{self.function} of {self.file.name} is no function",
                expected=f"def {self.function}(...)",
                got=repr(found),
                where=f"{where}, {self.file}",
            )
        return found


@dataclass(frozen=True)
class Origin:
    """Where a class or function of the user's is defined.

    Attributes:
        file: the Python file.
        name: in it.
        sha256: of the file, for a class of those of its own base classes, and of the user's modules that it imports.
    """

    file: Path
    name: str
    sha256: str

    def __str__(self) -> str:
        """What keys hold: the name and the content."""
        return f"{self.name} {self.sha256}"


@cache
def origin(thing: type | Callable[..., Any]) -> Origin:
    """Return where a class or function of the user's is defined; the content is that of the first call.

    Raises:
        ValueError: when there is no source, as for a class that was typed into an interactive session.
    """
    kinds = [thing]
    if isinstance(thing, type):
        kinds = [kind for kind in thing.__mro__ if is_own(kind) and kind not in Values.__mro__]
    try:
        sources = dict.fromkeys("".join(inspect.findsource(kind)[0]) for kind in kinds)
        file = inspect.getfile(thing)
    except (OSError, TypeError):
        raise ValueError(
            f"the source of {thing.__name__} is not to be found, and it is part of every key; define it in a file"
        ) from None
    own = hashlib.sha256("".join(sources).encode()).hexdigest()
    return Origin(Path(file), thing.__qualname__, with_modules(own, user_modules(Path(file))))


def is_own(thing: type | Callable[..., Any]) -> bool:
    """Whether a class or function is the user's, and not one of ours."""
    return thing.__module__.partition(".")[0] != "compress"


def _find_named(path: Path, *, code: Sequence[Path]) -> Path:
    """Return the file's absolute path, if the command line named it and it is there."""
    path = path.resolve()
    inside = any(path.is_relative_to(folder) for folder in folders_of(code))
    if not inside and path not in {allowed.resolve() for allowed in code}:
        raise InputError(
            f"{path.name} is Python code, which a recipe alone never runs",
            expected="the file, or the folder that it is in, named on the command line",
            got=", ".join(str(allowed) for allowed in code) or "no --code option",
            hint=f"add --code {path}",
        )
    if not path.is_file():
        raise InputError("the user's Python file does not exist", got=path)
    return path


@cache
def _import(path: Path, folders: tuple[Path, ...], content: str) -> ModuleType:
    place = hashlib.sha256(str(path).encode()).hexdigest()
    return _run(path, folders, name=f"compress_own_{path.stem}_{place[:6]}_{content[:12]}")


def _run(path: Path, folders: Sequence[Path], *, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where the names in annotations, and the source of a class, are looked up
    modules = user_modules(path, folders=folders)
    _forget_changed(modules)
    try:
        with _importing([path.parent, *folders]):
            spec.loader.exec_module(module)
    except USER_ERRORS as error:
        raise failure(error, path) from error
    for name, file in modules.items():
        if name in sys.modules:
            vars(sys.modules[name]).setdefault(CONTENT, sha256(file))
    return module


def _forget_changed(modules: Mapping[str, Path]) -> None:
    """Let a file's modules be imported anew, all of them, where one was loaded from other content or another place."""
    loaded = {name: vars(sys.modules[name]) for name in modules if name in sys.modules}
    changed = [
        name
        for name, held in loaded.items()
        if Path(held.get("__file__") or "").resolve() != modules[name].resolve()
        or held.get(CONTENT) not in (None, sha256(modules[name]))
    ]
    for name in loaded if changed else ():
        del sys.modules[name]


@contextmanager
def _importing(folders: Sequence[Path]) -> Iterator[None]:
    """Find modules in some folders first, as a script does beside it; afterwards last, for imports inside functions."""
    before, added = list(sys.path), [str(folder) for folder in dict.fromkeys(folders)]
    importlib.invalidate_caches()
    sys.path[:0] = added
    try:
        yield
    finally:
        sys.path[:] = [*before, *(folder for folder in added if folder not in before)]


@contextmanager
def telling_users() -> Iterator[None]:
    """Refuse what the user's own code raises in the block; everything else passes.

    Raises:
        InputError: with the user's own line.
    """
    try:
        yield
    except CompressError:
        raise
    except USER_ERRORS as error:
        raise_users(error)
        raise


def raise_users(error: BaseException) -> None:
    """Raise the refusal of what the user's code raised; return where an error did not pass any code of the user's.

    Raises:
        InputError: with the user's own line.
    """
    if lines := users_lines(error):
        raise failure(error, Path(lines[-1].rpartition(":")[0])) from error


def failure(error: BaseException, path: Path) -> InputError:
    """Return the refusal that says what a user's file raised, and at which line of the user's."""
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return InputError(f"your code fails: {path.name}", got=told, where=line_of(error, path))


def line_of(error: BaseException, path: Path) -> str:
    """Return the last line of the user's at which an error arose, as file and number; else the file alone.

    Args:
        error: as it was raised.
        path: the file that was run.
    """
    if isinstance(error, SyntaxError) and error.filename is not None and is_users(error.filename):
        return f"{error.filename}:{error.lineno}"
    return next(iter(users_lines(error)[::-1]), str(path))


def users_lines(error: BaseException) -> list[str]:
    """Return the lines of the user's own code that an error passed, as file and number, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno}" for frame in frames if is_users(frame.filename)]
