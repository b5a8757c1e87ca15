"""Decorators around every kind of function: what they begin is off while a generator is not run."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Protocol

from .errors import RprofTypeError

__all__ = ["Call", "decorate"]


class Call(Protocol):
    """One call of a decorated function."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *details: Any) -> Any: ...

    def pause(self) -> None:
        """A generator has yielded: what follows is its caller's."""

    def resume(self) -> None:
        """The generator goes on."""


def decorate(function: Any, call: Callable[[], Call], **attributes: Any) -> Any:
    """Return `function` wrapped in a context manager of its own for each call.

    Args:
        function: What to wrap; of a class method or static method, the function within.
        call: Makes the context manager. It is in the closure of the wrapper, so it has to pickle:
            functions are sent to other processes by value.
        **attributes: What the wrapper is to have.

    Raises:
        RprofTypeError: It is nothing that can be called.
    """
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(decorate(function.__func__, call, **attributes))
    if not callable(function):
        kind = type(function).__name__
        raise RprofTypeError(
            f"a {kind} cannot be decorated, for it is not called; write this decorator below that "
            f"which made it, nearest to the function"
        )
    wrapper = _wrapper(function, call)
    for name, value in attributes.items():
        setattr(wrapper, name, value)
    return wrapper


def _wrapper(function: Callable[..., Any], call: Callable[[], Call]) -> Any:
    # Costs more than all else here, and most programs decorate nothing.
    import inspect

    wrapper: Any
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            steps = _async_generator(call(), function(*args, **kwargs))
            try:
                value = None
                while True:
                    try:
                        item = await steps.asend(value)
                    except StopAsyncIteration:
                        return
                    value = yield item
            finally:
                await steps.aclose()

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return (yield from _generator(call(), function(*args, **kwargs)))

    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with call():
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with call():
                return function(*args, **kwargs)

    return wrapper


def _generator(call: Call, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    step: Callable[[Any], Any] = generator.send
    argument: Any = None
    with call:
        try:
            while True:
                try:
                    item = step(argument)
                except StopIteration as end:
                    return end.value
                call.pause()
                try:
                    argument = yield item
                    step = generator.send
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step, argument = generator.throw, error
                finally:
                    call.resume()
        finally:
            generator.close()


async def _async_generator(
    call: Call, generator: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    step: Callable[[Any], Any] = generator.asend
    argument: Any = None
    with call:
        try:
            while True:
                try:
                    item = await step(argument)
                except StopAsyncIteration:
                    return
                call.pause()
                try:
                    argument = yield item
                    step = generator.asend
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step, argument = generator.athrow, error
                finally:
                    call.resume()
        finally:
            await generator.aclose()
