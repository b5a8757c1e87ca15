"""Options: what was asked (keywords, environment) becomes a checked ``Config``, once."""

# Imports nothing that an interpreter has not imported when it starts: not typing, not even
# __future__. Annotations that need more are text.

import os
import sys
from _thread import get_native_id

from ._documentation import page
from ._rows import NamedTuple
from .errors import RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

__all__ = ["OPTIONS", "PRESETS", "UNSET", "Config", "ThreadInfo", "program_name", "resolve"]


# Tells an option that was not given from one that was given as None.
UNSET: "Any" = type("Unset", (), {"__repr__": lambda _: "<from the environment, or the default>"})()


# Words for threads that have no need of names.
_THREADS = ("all", "current", "main")
# How a variable says yes or no.
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class ThreadInfo(NamedTuple):
    """A thread as a ``threads=`` callable sees it."""

    id: int
    """Kernel thread id (``threading.get_native_id()``)."""
    name: str
    """``threading.Thread.name``; ``thread 4711``, its id, for one unknown to ``threading``."""
    main: bool = False
    """Whether it is the main thread of its process, whatever it is called."""


class Config(NamedTuple):
    """A recording's options, resolved and checked."""

    output: str | None
    rate: float
    window: float
    engine: str
    max_overhead: float
    keep_files: int
    keep_bytes: int
    max_nodes: int
    max_depth: int
    threads: "str | tuple[str, ...] | Callable[[ThreadInfo], bool]"
    recent: float
    recent_bytes: int
    exit_hooks: bool
    memory: "bool | int | None"
    task_steps: bool
    locks: str | None


class Option(NamedTuple):
    """One option: its default, how text becomes a value and back, and what a value must be."""

    default: "Any"
    parse: "Callable[[str], Any]"
    check: "Callable[[str, Any], Any]"
    show: "Callable[[Any], str]"
    """Returns the text that ``parse`` makes the value of, for any value but a callable."""


class Preset(NamedTuple):
    """What some use of the options does otherwise than ``start``."""

    defaults: "Mapping[str, Any]"
    variables: frozenset[str]
    """Options for which variables count."""


def _number(low: float, high: float, unit: str) -> "Callable[[str, Any], float]":
    def check(name: str, value: "Any") -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RprofTypeError(
                f"{name} must be a number ({unit}), not {value!r}; for example {name}={low:g}"
            )
        if not low <= value <= high:
            raise RprofValueError(
                f"{name}={value!r} is out of range; choose {low:g} to {high:g} ({unit})"
            )
        return float(value)

    return check


def _integer(low: int, high: int, unit: str) -> "Callable[[str, Any], int]":
    def check(name: str, value: "Any") -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise RprofTypeError(f"{name} must be a whole number ({unit}), not {value!r}")
        if not low <= value <= high:
            raise RprofValueError(
                f"{name}={value!r} is out of range; choose {low} to {high} ({unit})"
            )
        return value

    return check


def _check_output(name: str, value: "Any") -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise RprofTypeError(
            f"{name} must be a path or None, not {value!r}; for example {name}='rprof/' for a "
            f"directory or {name}='app.pb.gz' for a file"
        )
    path = os.fspath(value)
    if not isinstance(path, str):
        raise RprofTypeError(f"{name} must be a text path, not bytes: {path!r}")
    if not path or "\0" in path:
        raise RprofValueError(f"{name}={path!r} is not a path; use for example 'rprof/'")
    return path


def _check_engine(name: str, value: "Any") -> str:
    if not isinstance(value, str):
        raise RprofTypeError(f"{name} must be 'auto', 'direct' or 'gil', not {value!r}")
    if value not in ("auto", "direct", "gil"):
        raise RprofValueError(f"{name}={value!r} is unknown; choose 'auto', 'direct' or 'gil'")
    return value


def _check_threads(name: str, value: "Any") -> "Any":
    if callable(value):
        return value
    if isinstance(value, str):
        if value in _THREADS:
            return value
        raise RprofValueError(
            f"{name}={value!r} is unknown; choose 'all', 'current', 'main', a list of thread "
            f"names such as [{value!r}], or a callable"
        )
    try:
        names = tuple(value)
    except TypeError:
        names = ()
    if not names or not all(isinstance(item, str) for item in names):
        raise RprofTypeError(
            f"{name} must be 'all', 'current', 'main', a list of thread names (with * and ?) or a "
            f"callable, not {value!r}"
        )
    return names


def _parse_flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError(text)
    return _FLAGS[text.lower()]


def _check_flag(name: str, value: "Any") -> bool:
    if not isinstance(value, bool):
        raise RprofTypeError(f"{name} must be True or False, not {value!r}")
    return value


def _show_flag(value: bool) -> str:
    return str(value).lower()


def _parse_memory(text: str) -> bool | int | None:
    lower = text.lower()
    if lower in ("none", "false", "0"):
        return None
    return True if lower in ("true", "1") else int(text)


def _check_memory(name: str, value: "Any") -> bool | int | None:
    if value is None or value is False:
        return None
    return True if value is True else _check_memory_rate(name, value)


_check_memory_rate = _integer(1 << 10, 1 << 30, "bytes between two samples, or True or None")


def _show_memory(value: bool | int | None) -> str:
    return str(value).lower()


def _parse_locks(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _check_locks(name: str, value: "Any") -> str | None:
    if value is not None and not isinstance(value, str):
        raise RprofTypeError(f"{name} must be 'sampled', 'exact' or None, not {value!r}")
    if value not in (None, "sampled", "exact"):
        raise RprofValueError(f"{name}={value!r} is unknown; choose 'sampled', 'exact' or None")
    return value


def _show_locks(value: str | None) -> str:
    return "none" if value is None else value


def _parse_output(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _show_output(value: str | None) -> str:
    if value is None:
        return "none"
    # A directory of that name.
    return "./" + value if value.lower() == "none" else value


def _parse_threads(text: str) -> str | tuple[str, ...]:
    """Read names between commas; a backslash stands before what is to be taken as it is."""
    if text in _THREADS:
        return text
    names: list[str] = []
    # Of the name being read: its text, and how much of that no space is to be taken from.
    name, kept = "", 0
    characters = iter(text)
    for character in characters:
        if character == ",":
            names.append(name[:kept] + name[kept:].rstrip())
            name, kept = "", 0
        elif character == "\\":
            name += next(characters, "")
            kept = len(name)
        elif name or not character.isspace():
            name += character
    return (*names, name[:kept] + name[kept:].rstrip())


def _show_threads(value: str | tuple[str, ...]) -> str:
    if isinstance(value, str):
        return value
    text = ",".join(map(_show_name, value))
    # Not the word, and something: an empty variable is none.
    return "\\" + text if text in ("", *_THREADS) else text


def _show_name(name: str) -> str:
    return "".join(
        "\\" + character if character in "\\," or character.isspace() else character
        for character in name
    )


OPTIONS: "Mapping[str, Option]" = {
    "output": Option("rprof/", _parse_output, _check_output, _show_output),
    "rate": Option(100.0, float, _number(0.01, 10_000, "Hz"), str),
    "window": Option(60.0, float, _number(0.005, 86_400 * 366, "seconds"), str),
    "engine": Option("auto", str, _check_engine, str),
    "max_overhead": Option(
        0.01, float, _number(0.0, 1.0, "fraction of one core, 0 = no limit"), str
    ),
    "keep_files": Option(60, int, _integer(1, 1_000_000, "files"), str),
    "keep_bytes": Option(256 << 20, int, _integer(1, 1 << 62, "bytes"), str),
    "max_nodes": Option(200_000, int, _integer(100, 50_000_000, "call tree nodes"), str),
    "max_depth": Option(512, int, _integer(8, 100_000, "frames"), str),
    "threads": Option("all", _parse_threads, _check_threads, _show_threads),
    "recent": Option(300.0, float, _number(0.0, 86_400, "seconds, 0 = none"), str),
    "recent_bytes": Option(16 << 20, int, _integer(1 << 16, 1 << 40, "bytes"), str),
    "exit_hooks": Option(True, _parse_flag, _check_flag, _show_flag),
    "memory": Option(None, _parse_memory, _check_memory, _show_memory),
    "task_steps": Option(False, _parse_flag, _check_flag, _show_flag),
    "locks": Option("sampled", _parse_locks, _check_locks, _show_locks),
}
"""Every option, in the order in which ``Config`` has them."""

PRESETS: "Mapping[str, Preset]" = {
    "start": Preset({}, frozenset(OPTIONS)),
    # Short, and asked for.
    "block": Preset(
        {"output": None, "max_overhead": 0.1},
        frozenset({"rate", "engine", "max_overhead", "max_nodes", "max_depth", "locks"}),
    ),
    "requests": Preset({"output": None, "max_overhead": 0.1}, frozenset()),
    # Somebody waits for its page.
    "one request": Preset({"output": None, "rate": 1000.0, "max_overhead": 1.0}, frozenset()),
    "watching": Preset({"output": None, "max_overhead": 0.01}, frozenset()),
    # Profiles that somebody asks for over HTTP.
    "endpoint": Preset({"rate": 100.0, "max_overhead": 0.05}, frozenset()),
    # A run is watched closely and ends: more than what is fair for a service.
    "run": Preset({"rate": 1000.0, "max_overhead": 0.05}, frozenset(OPTIONS)),
}
"""What each use of the options does otherwise."""


def given_options(arguments: "Mapping[str, Any]") -> "dict[str, Any]":
    """Return the options among a function's ``locals()`` that were given.

    Those that the function does not know are in ``unknown``.
    """
    given = {
        name: value
        for name, value in arguments.items()
        if name not in ("self", "unknown") and value is not UNSET
    }
    return {**given, **arguments.get("unknown", {})}


def resolve(
    given: "Mapping[str, Any]",
    preset: str = "start",
    *,
    defaults: "Mapping[str, Any] | None" = None,
    environment: "Mapping[str, str] | None" = None,
) -> Config:
    """Resolve options: explicit argument, else ``RPROF_<OPTION>``, else default.

    Args:
        given: The options that were named by the caller.
        preset: What they are for.
        defaults: Defaults that come before those of the preset.
        environment: Where to look for variables; ``os.environ`` unless given.

    Raises:
        RprofTypeError: An unknown option or a value of the wrong type.
        RprofValueError: A value out of range, or a variable that cannot be parsed.
    """
    environment = os.environ if environment is None else environment
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise RprofTypeError(
            f"unknown option {', '.join(unknown)}; the options are {', '.join(OPTIONS)}; see "
            + page("reference/options")
        )
    use = PRESETS[preset]
    defaults = {**use.defaults, **(defaults or {})}
    values: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        label = name
        variable = "RPROF_" + name.upper()
        text = environment.get(variable, "") if name in use.variables else ""
        if name in given:
            value = given[name]
        elif text:
            label = variable
            try:
                value = option.parse(text)
            except ValueError:
                raise RprofValueError(
                    f"{variable}={text!r} cannot be read; set it to a value such as "
                    f"{option.default!r} or unset it"
                ) from None
        else:
            value = defaults.get(name, option.default)
        values[name] = option.check(label, value)
    return Config(**values)


def file_options(directory: "Path") -> "dict[str, Any]":
    """Return the options in the table ``[tool.rprof]`` of the nearest pyproject.toml.

    Args:
        directory: Where to begin; its parents follow.

    Raises:
        RprofValueError: The file cannot be read, or a value is out of range.
        RprofTypeError: There is an unknown option, or a value of the wrong type.
    """
    for parent in (directory, *directory.parents):
        path = parent / "pyproject.toml"
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except PermissionError:
            # It is not this user's, and so is what it asks for.
            return {}
        except OSError as error:
            raise RprofValueError(f"cannot read {path}: {error.strerror}") from error
        return _checked_table(path, data)
    return {}


def _checked_table(path: "Path", data: bytes) -> "dict[str, Any]":
    from importlib import import_module

    if b"[tool.rprof]" not in data:
        return {}
    try:
        # Some editors write a byte order mark.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RprofValueError(f"cannot read {path}: {error}") from error
    try:
        toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        raise RprofValueError(
            f"{path} has a table [tool.rprof], and CPython 3.10 cannot read TOML; install tomli"
        ) from None
    try:
        # As a file opened as text has them.
        table = toml.loads(text.replace("\r\n", "\n"))["tool"]["rprof"]
    except toml.TOMLDecodeError as error:
        raise RprofValueError(f"{path} is not TOML: {error}") from error
    except KeyError:
        # The words stand in a comment, or in some text.
        return {}
    unknown = sorted(set(table) - set(OPTIONS))
    if unknown:
        raise RprofTypeError(
            f"{path} sets tool.rprof.{unknown[0]}; the options are {', '.join(OPTIONS)}; see "
            + page("reference/options")
        )
    return {
        name: OPTIONS[name].check(f"tool.rprof.{name} in {path}", value)
        for name, value in table.items()
    }


def unknown_variables(environment: "Mapping[str, str]") -> list[str]:
    """Variables that look like an option but are none, for a warning about a typo."""
    known = {
        "RPROF_RUN",
        "RPROF_SERVE",
        "RPROF_SERVE_TOKEN",
        *("RPROF_" + name.upper() for name in OPTIONS),
    }
    return sorted(
        name
        for name in environment
        if name.startswith("RPROF_")
        and name not in known
        and not name.startswith(("RPROF_CI_", "RPROF_RUN_"))
    )


def program_name() -> str:
    """What is running: the script or module that the interpreter was started with."""
    path = sys.argv[0] if getattr(sys, "argv", None) else ""
    if path == "-m":
        # Until the module has been found, its name is only in the interpreter's own arguments.
        words = sys.orig_argv
        path = words[words.index("-m") + 1].replace(".", "/") if "-m" in words[:-1] else ""
    name = os.path.basename(path)
    if name == "__main__.py":
        name = os.path.basename(os.path.dirname(absolute(path)))
    name = name.removesuffix(".py")
    return "python" if name in ("", "-", "-c", "-m") else well_formed(name)


def well_formed(text: str) -> str:
    """Return text with U+FFFD for each lone surrogate, as the engines read them.

    File names have them where they are not in the encoding of the file system.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def absolute(path: str) -> str:
    """Return a path as absolute if that can be: the working directory may have been deleted."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path


def import_roots() -> list[str]:
    """Absolute directories that modules are imported from."""
    paths = [path for path in sys.path if isinstance(path, str)]
    roots = [absolute(path) for path in [*paths, os.path.dirname(os.__file__)]]
    return [well_formed(root) for root in roots if os.path.isabs(root)]


def native_memory(config: Config) -> float | None:
    """Return ``config.memory`` as the native side takes it: 0 has the rate chosen."""
    if config.memory is None:
        return None
    return 0.0 if config.memory is True else float(config.memory)


def native_threads(config: Config) -> "int | str | list[str] | None":
    """``config.threads`` as the native side takes it; a callable is applied to the result."""
    if config.threads == "current":
        return get_native_id()
    if config.threads == "main":
        return "main"
    if isinstance(config.threads, tuple):
        return list(config.threads)
    return None
