"""What arguments a class or function takes, through ``**kwargs`` to its bases too, and what names its code reads."""

import ast
import functools
import inspect
import sys
import textwrap
from dataclasses import dataclass
from typing import Any, Callable, Dict, FrozenSet, Iterable, Optional, Set, Tuple, Union

from torch import nn


@dataclass(frozen=True)
class Arguments:
    """The named arguments of a callable; ``open`` if it takes further ones that cannot be told from its code."""

    named: Dict[str, inspect.Parameter]
    open: bool


@functools.cache
def arguments_of(target: Callable) -> Arguments:
    """The arguments of a class or a function, with those of the bases that a class hands its ``**kwargs`` to."""
    named: Dict[str, inspect.Parameter] = {}
    is_class = inspect.isclass(target)
    chain = list(target.__mro__) if is_class else [target]
    while chain:
        current = chain.pop(0)
        if is_class and "__init__" not in vars(current):
            continue
        function = inspect.unwrap(vars(current)["__init__"] if is_class else current)
        if function in (object.__init__, nn.Module.__init__):
            break
        try:
            parameters = list(inspect.signature(function).parameters.values())[is_class:]  # without self
        except (TypeError, ValueError):  # written in C
            return Arguments(named, True)
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                named.setdefault(parameter.name, parameter)
        rest = [parameter.name for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD]
        if not rest:
            break
        handed = _handed_on(function, rest[0]) if is_class else None
        if handed is None:
            return Arguments(named, True)
        read, after = handed
        for name in read:
            named.setdefault(name, inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None))
        while after and chain and chain[0].__name__ != after:
            chain.pop(0)
        if after:
            chain = chain[1:]
    return Arguments(named, False)


def _handed_on(function: Callable, kwargs: str) -> Optional[Tuple[Set[str], str]]:
    """What a constructor does with its ``kwargs``, if that is to hand them on to the constructor of a base.

    Returns:
        The names that it takes out itself, and the class named in ``super(Class, self)``, if any (the base comes after
        it); None if it does anything else with them.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    uses = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == kwargs}
    read: Set[str] = set()
    handed_on, after = False, ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = node.func
            if called.attr == "__init__":
                passed = {id(word.value) for word in node.keywords if word.arg is None}
                if passed & uses:
                    handed_on = True
                    if isinstance(called.value, ast.Call) and called.value.args:  # super(Class, self)
                        after = getattr(called.value.args[0], "id", "")
                uses -= passed
            elif called.attr in ("pop", "get", "setdefault") and id(called.value) in uses:
                read |= _constants(node.args[:1])
                uses.discard(id(called.value))
        elif isinstance(node, ast.Subscript) and id(node.value) in uses:
            read |= _constants([node.slice])
            uses.discard(id(node.value))
        elif isinstance(node, ast.Compare):
            read |= _constants([node.left])
            uses -= {id(right) for right in node.comparators}
    if not handed_on or uses:
        return None
    return read, "" if after == function.__qualname__.split(".")[0] else after


def _constants(nodes: Iterable[ast.AST]) -> Set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@dataclass(frozen=True)
class Names:
    """What the code of a module names: words in quotes, and these with attributes and arguments."""

    quoted: FrozenSet[str]
    all: FrozenSet[str]


@functools.cache
def names_in(module: str) -> Names:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):
        return Names(frozenset(), frozenset())
    quoted = _constants(ast.walk(tree))
    names = set(quoted)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, (ast.keyword, ast.arg)) and node.arg:
            names.add(node.arg)
    return Names(frozenset(quoted), frozenset(names))


@functools.cache
def modules_of(target: Callable) -> FrozenSet[str]:
    """The modules of a class and of its bases, without torch's and Python's own."""
    modules = {getattr(base, "__module__", None) or "" for base in getattr(target, "__mro__", [target])}
    return frozenset(module for module in modules if module.split(".")[0] not in ("", "torch", "builtins", "abc"))


def quoted_by(target: Callable) -> Set[str]:
    """The words in quotes in the code of a class and its bases: the keys that it may take out of a dict."""
    return {name for module in modules_of(target) for name in names_in(module).quoted}


def vocabulary(targets: Iterable[Callable]) -> Set[str]:
    """All names in the modules of ``targets``, and in those that these import functions and classes from."""
    modules = {module for target in targets for module in modules_of(target)}
    for module in list(modules):
        package = module.split(".")[0]
        for value in vars(sys.modules[module]).values() if module in sys.modules else ():
            source = getattr(value, "__module__", None)
            if callable(value) and isinstance(source, str) and source.split(".")[0] == package:
                modules.add(source)
    return {name for module in modules for name in names_in(module).all}


def wants_text(parameter: Optional[inspect.Parameter]) -> bool:
    """Whether an argument is certain to take a text: by its default, or by its annotation."""
    if parameter is None:
        return False
    union = getattr(parameter.annotation, "__origin__", Union) is Union
    choices = getattr(parameter.annotation, "__args__", [parameter.annotation]) if union else []
    return isinstance(parameter.default, str) or str in choices


def takes_text(annotation: Any) -> bool:
    """Whether a text fits an annotation; True where that cannot be told."""
    if getattr(annotation, "__origin__", None) is Union:
        return any(takes_text(choice) for choice in annotation.__args__)
    return annotation not in (int, float, type(None))
