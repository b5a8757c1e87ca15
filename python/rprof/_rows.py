"""``NamedTuple`` for code that runs where nothing but rprof has been imported.

That of ``typing`` brings ``typing``, ``collections``, ``functools`` and more into every process in
which rprof is started, and with that the better part of what starting would cost.
"""

__all__ = ["NamedTuple"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class _Rows(type):
        """Makes the classes: each annotation in their bodies is a field, in order."""

        def __new__(cls, name, bases, namespace):
            namespace.setdefault("__slots__", ())
            made = super().__new__(cls, name, bases, namespace)
            if bases != (tuple,):
                names = tuple(made.__annotations__)
                made._fields = made.__match_args__ = names
                for place, field in enumerate(names):
                    setattr(made, field, property(lambda row, place=place: row[place]))
            return made

    class NamedTuple(tuple, metaclass=_Rows):
        """A tuple whose items have names; a class of them lists these as annotations."""

        _fields = ()

        def __new__(cls, *values, **named):
            names = cls._fields
            missing = names[len(values) :]
            if len(values) > len(names) or named.keys() != {*missing}:
                raise TypeError(f"{cls.__name__} needs {', '.join(names)}, each of them once")
            return tuple.__new__(cls, (*values, *[named[name] for name in missing]))

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes):
            return type(self)(**{**self._asdict(), **changes})

        # For copy.replace() of CPython 3.13.
        __replace__ = _replace

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            items = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({items})"
