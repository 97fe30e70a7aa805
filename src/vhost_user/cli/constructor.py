"""The arguments of a device's constructor: what they are called, of which type they are, what they mean."""

from __future__ import annotations

import ast
import contextlib
import enum
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from vhost_user.backend import Device, VhostUserBackend, VhostUserBackendMut
from vhost_user.cli.conversion import ConversionError, convert, describe, guess, takes_several
from vhost_user.cli.failure import UsageError

_FRAMEWORKS_OWN = (object.__new__, Device.__new__, VhostUserBackendMut.__new__, VhostUserBackend.__new__)


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor."""

    name: str
    annotation: Any
    """Parameter.empty when there is none."""
    default: Any
    """Parameter.empty when it must be given."""
    kind: Any
    doc: str = ""

    def value(self, texts: list[str]) -> Any:
        """What was written for it, converted. UsageError says what can be written."""
        option = f"--option {self.name}={texts[-1]}"
        annotation = self.annotation
        if annotation is Parameter.empty and isinstance(self.default, str):
            annotation = str
        if len(texts) > 1 and not takes_several(annotation):
            raise UsageError(f"{option}: {self.name} is given {len(texts)} times, and takes one value")
        if annotation is Parameter.empty:
            return guess(texts[0])
        try:
            return convert(",".join(texts), annotation)
        except ConversionError as error:
            raise UsageError(f"{option}: {self.name} is {describe(annotation)}; {error}") from None

    def help(self) -> str:
        """One line: type, default, meaning."""
        kind = "" if self.annotation is Parameter.empty else describe(self.annotation)
        default = "required" if self.default is Parameter.empty else f"default {_shown(self.default)}"
        line = f"{kind}, {default}" if kind else default
        return f"{self.doc.rstrip('.')} ({line})" if self.doc else f"({line})"


def _shown(default: Any) -> str:
    if isinstance(default, enum.Enum):
        return str(default.name)
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return str(default) or "''"


class Constructor:
    """The constructor of ``kind``, by its signature, annotations and docstrings."""

    def __init__(self, kind: type) -> None:
        function = getattr(kind, "__init__")  # noqa: B009  # kind.__init__ is unsound to mypy
        if function is object.__init__:
            made_by: Any = kind.__new__
            function = None if made_by in _FRAMEWORKS_OWN else made_by
        self._name = kind.__name__
        self.arguments: dict[str, Argument] = {}
        self._rest: Argument | None = None
        """``**options`` of the constructor: it takes any name."""
        if function is None:
            return
        docs, hints = _docs(kind, function), _hints(function)
        for parameter in list(_signature(function).parameters.values())[1:]:
            annotation = hints.get(parameter.name, Parameter.empty)
            doc = _annotated_doc(annotation) or docs.get(parameter.name, "")
            argument = Argument(parameter.name, annotation, parameter.default, parameter.kind, doc)
            if parameter.kind is Parameter.VAR_KEYWORD:
                self._rest = argument
            elif parameter.kind is not Parameter.VAR_POSITIONAL:
                self.arguments[parameter.name] = argument

    def bind(self, given: Mapping[str, list[str]]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments out of the texts. UsageError for what does not fit."""
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        for name in given:
            if name not in self.arguments and self._rest is None:
                raise UsageError(f"{self._name} has no argument {name!r}; {self.takes()}")
        for name, argument in self.arguments.items():
            if name not in given:
                if argument.default is Parameter.empty:
                    raise UsageError(f"{self._name} needs {name}: give --option {name}=…; {self.takes()}")
                if argument.kind is Parameter.POSITIONAL_ONLY:
                    positional.append(argument.default)
            elif argument.kind is Parameter.POSITIONAL_ONLY:
                positional.append(argument.value(given[name]))
            else:
                keywords[name] = argument.value(given[name])
        for name in given.keys() - self.arguments.keys():
            assert self._rest is not None  # see above
            keywords[name] = Argument(
                name, self._rest.annotation, Parameter.empty, Parameter.KEYWORD_ONLY
            ).value(given[name])
        return positional, keywords

    def takes(self) -> str:
        """The names of the arguments in a sentence."""
        names = [*self.arguments, *(["any other"] if self._rest is not None else [])]
        if not names:
            return "it takes no arguments"
        return f"it takes {', '.join(names)} (give them as --option key=value)"

    def help(self) -> str:
        """The arguments, a line or a few each, for ``--help``."""
        if not self.arguments and self._rest is None:
            return f"{self._name} takes no arguments."
        lines = [f"arguments of {self._name}, each given as --option NAME=VALUE:"]
        for name, argument in self.arguments.items():
            text = textwrap.wrap(argument.help(), 72) or [""]
            head = f"  {name}"
            lines.append(f"{head:<26}  {text[0]}" if len(head) <= 26 else head)
            rest = text[1:] if len(head) <= 26 else text
            lines += [" " * 28 + line for line in rest]
        if self._rest is not None:
            lines.append("  and any other")
        if any(takes_several(argument.annotation) for argument in self.arguments.values()):
            lines.append("  Parts of a list are separated by commas, or given by an --option each.")
        return "\n".join(lines)


def _signature(function: Any) -> Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # a compiled one that does not tell
        return Signature(
            [Parameter("self", Parameter.POSITIONAL_ONLY), Parameter("options", Parameter.VAR_KEYWORD)]
        )


def _hints(function: Any) -> dict[str, Any]:
    """Annotations as types. One that cannot be evaluated (imported for the type checker only) is left out."""
    function = inspect.unwrap(function)
    with contextlib.suppress(Exception):  # then each by itself
        return get_type_hints(function, include_extras=True)
    hints = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        try:
            value = eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation  # noqa: S307  # the author's own
        except Exception:  # noqa: BLE001, S112
            continue
        hints[name] = value
    return hints


def _annotated_doc(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        for extra in get_args(annotation)[1:]:
            text = extra if isinstance(extra, str) else getattr(extra, "documentation", None)
            if isinstance(text, str):
                return " ".join(text.split())
    return ""


def _docs(kind: type, function: Any) -> dict[str, str]:
    """What docstrings say of the arguments: that of ``__init__``, of the class, those below its fields."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if hasattr(base, "__dataclass_fields__"):
            docs |= _field_docs(base)
    for text in (inspect.getdoc(kind), inspect.getdoc(function)):
        docs |= _documented(text or "")
    return docs


_GOOGLE = re.compile(r"^(?P<indent>\s+)(?P<name>\w+)(?:\s*\([^)]*\))?:\s+(?P<text>\S.*)$")
_SPHINX = re.compile(r"^:param(?:\s+[^:]+?)??\s+(?P<name>\w+):\s*(?P<text>.*)$")
_NUMPY = re.compile(r"^(?P<name>\w+)\s*:\s*\S.*$")


def _documented(docstring: str) -> dict[str, str]:
    """Arguments in the manner of Google, Sphinx or NumPy."""
    docs: dict[str, list[str]] = {}
    section, current, level = "", None, 0
    lines = docstring.splitlines()
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if match := _SPHINX.match(line.strip()):
            current, level = match["name"], indent
            docs[current] = [match["text"]]
        elif line.strip().rstrip(":").lower() in ("args", "arguments", "parameters") and not indent:
            numpy = number + 1 < len(lines) and set(lines[number + 1].strip()) == {"-"}
            section, current = "numpy" if numpy else "google", None
        elif section == "google" and (match := _GOOGLE.match(line)) and (current is None or indent <= level):
            current, level = match["name"], indent
            docs[current] = [match["text"]]
        elif section == "numpy" and not indent and (match := _NUMPY.match(line)):
            current, level = match["name"], indent
            docs[current] = []
        elif current is not None and line.strip() and indent > level:
            docs[current].append(line.strip())
        elif line.strip() and set(line.strip()) != {"-"}:
            section, current = ("" if not indent else section), None
    return {name: " ".join(text).strip() for name, text in docs.items()}


def _field_docs(kind: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body: Iterable[ast.stmt] = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else ()
    docs, name = {}, None
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        else:
            if name and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                docs[name] = " ".join(str(statement.value.value).split())
            name = None
    return docs
