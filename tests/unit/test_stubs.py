"""The stub and the native module agree, and what is public is documented."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import rprof
from rprof._loading import native

_native = native()

STUB = ast.parse(Path(rprof.__file__).with_name("_native.pyi").read_text(encoding="utf-8"))


def _public(names):
    return {name for name in names if not name.startswith("_")}


def _stubbed(body):
    return {node.name: node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def test_the_stub_names_what_the_module_has():
    assert _public(_stubbed(STUB.body)) == _public(vars(_native))


def test_the_stub_names_what_the_classes_have():
    classes = [node for node in STUB.body if isinstance(node, ast.ClassDef)]
    # The others describe dictionaries of options.
    classes = [node for node in classes if not node.name.startswith("_")]
    assert classes
    for node in classes:
        assert _public(_stubbed(node.body)) == _public(vars(getattr(_native, node.name)))


def test_signatures_agree():
    functions = dict(_stubbed(STUB.body))
    methods = functions.pop("Profile").body
    for name in [name for name, node in functions.items() if isinstance(node, ast.ClassDef)]:
        functions.pop(name)
    for owner, nodes in ((_native, functions), (_native.Profile, _stubbed(methods))):
        for name, node in nodes.items():
            if any(getattr(mark, "id", "") == "property" for mark in node.decorator_list):
                continue
            native = inspect.signature(getattr(owner, name)).parameters
            arguments = node.args
            stubbed = [a.arg for a in arguments.args + arguments.kwonlyargs]
            assert stubbed == list(native), name


def test_everything_public_has_a_docstring():
    for name in rprof.__all__:
        value = getattr(rprof, name)
        if callable(value):
            assert value.__doc__, name
    for name, member in vars(rprof.Profile).items():
        if not name.startswith("_"):
            assert member.__doc__, name
    for name in _public(vars(_native)):
        assert getattr(_native, name).__doc__, name


def test_all_names_exist():
    assert set(rprof.__all__) <= set(dir(rprof))
    assert rprof.__version__ == _native.__version__
    assert not hasattr(rprof, "no_such_name")
