"""Where greenlets keep their frames, told by specimens of which everything is known.

Whoever reads suspended greenlets without the GIL (``src/unwind/greenlets.rs``) must know where in a
greenlet what is, as `_tasks` has it of asyncio. Two greenlets are made, run and ended here, in the
thread that calls; nothing of the program's is touched, and its trace function is not called.
"""

import sys

from . import _imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["learn"]

# What is told of by its address must not give that to another.
_kept: "list[Any]" = []


def learn(native: "Any") -> None:
    """Find out where greenlets keep what, once the program has imported greenlet."""
    _imported.learn("greenlet", lambda module: _tell(native, module), native.no_greenlets)


def _tell(native: "Any", module: "Any") -> None:
    """Tell, while they are suspended, what is known of two greenlets."""
    greenlet = module.greenlet
    # Greenlets of threads that never had one need not be looked for.
    count = getattr(sys.modules.get("greenlet._greenlet"), "get_total_main_greenlets", None)
    are_some = count is None or count() > 0
    here = module.getcurrent()
    main = here
    while main.parent is not None:
        main = main.parent
    trace = module.gettrace()
    if trace is not None:
        module.settrace(None)
    try:
        objects, made = _suspend(native, greenlet, here, main)
        told = [(key, id(value)) for key, value in objects.items()]
        try:
            existing: list[Any] = []
            if are_some:
                import gc

                existing = gc.get_objects()
            native.learn_greenlets(told, greenlet, existing)
        finally:
            # Each ends into the one that it was made in.
            for one in made:
                one.parent = here
                one.throw()
    finally:
        if trace is not None:
            module.settrace(trace)


def _suspend(
    native: "Any", greenlet: "Any", here: "Any", main: "Any"
) -> "tuple[dict[str, Any], list[Any]]":
    """Return specimens by name, and those of them that are to be ended."""
    frames = []

    def leave(_: "Any") -> None:
        frames.append(sys._getframe())
        here.switch()

    def outer() -> None:
        # Through a function of C, whose frame is on the C stack.
        list(map(leave, (None,)))

    parent = greenlet(outer)
    parent.switch()
    specimen = greenlet(outer, parent)
    context = native.new_context()
    specimen.gr_context = context
    name = "a specimen of rprof's"
    specimen.name = name
    new, ended = greenlet(outer), greenlet(int)
    ended.switch()
    # Left in a function of C, it has no frame.
    bare = greenlet(here.switch)
    bare.switch()
    specimen.switch()
    key = sys.intern("name")
    _kept.extend((leave.__code__, outer.__code__, key))
    objects = {
        "greenlet": specimen,
        "frame": frames.pop(),
        "code": leave.__code__,
        "outer code": outer.__code__,
        "main": main,
        "parent": parent,
        "context": context,
        "attributes": specimen.__dict__,
        "name": name,
        "name key": key,
        "running": here,
        "new": new,
        "ended": ended,
        "bare": bare,
    }
    frames.clear()
    return objects, [specimen, parent, bare]
