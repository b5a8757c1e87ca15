"""``rprof.serve``: profiles, dumps and counters over HTTP."""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os

# _continuous is loaded with this one: when that is asked for, no file may be readable any more.
from . import _continuous, _hooks, _loading, _process  # noqa: F401
from ._documentation import page
from ._native_options import endpoint_options
from ._process import EndpointRequest
from .errors import RprofError, RprofOSError, RprofStateError, RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._native import Block, Serving
else:
    Block = _loading.block()

__all__ = ["Endpoint", "serve", "serve_if_possible"]

_MIN_TOKEN_LENGTH = 16


class Endpoint(Block):
    """An open endpoint; a context manager that closes it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._pid = os.getpid()
        self._owner: Serving | None = None

    @property
    def address(self) -> str:
        """Where it listens: ``127.0.0.1:PORT`` or ``unix:PATH``."""
        return self._address

    def stop(self) -> None:
        """Close it; requests under way end. A forked child does not close its parent's."""
        if self._pid == os.getpid():
            _hooks.close_endpoint()

    def __enter__(self) -> "Endpoint":
        self._owner = _hooks.native().Serving(self._address)
        return self

    _leave = stop

    def __repr__(self) -> str:
        return f"<rprof.Endpoint at {self._address}>"


def serve(
    address: str = "127.0.0.1:0", *, token: str | None = None, allow_remote: bool = False
) -> Endpoint:
    """Answer requests for profiles and dumps, in the scheme of Go's ``net/http/pprof``.

    A native thread answers, without the GIL: also while a C extension keeps it for ever, and while
    all threads wait for each other. Below ``/debug/pprof/`` there are ``profile``, ``wall``,
    ``report``, ``threads``, ``status`` and ``metrics``; the address itself lists them.

    A forked child opens one of its own if the port is 0 or the path has ``{pid}`` in it, else none.

    Args:
        address: ``"127.0.0.1:6060"``, ``"127.0.0.1:0"`` for any free port, or
            ``"unix:/run/app/rprof.sock"`` for a socket that only its owner can open.
        token: What requests must show as ``Authorization: Bearer TOKEN``; at least 16 characters.
        allow_remote: Permit an address that other machines can reach; a token is then needed.

    Raises:
        RprofTypeError: A value of the wrong type.
        RprofValueError: No address, one that others can reach without both ``allow_remote`` and a
            token, or a token that can be guessed.
        RprofStateError: An endpoint is open already.
        RprofOSError: The address cannot be had.
    """
    if not isinstance(address, str):
        raise RprofTypeError(f"address must be text such as '127.0.0.1:0', not {address!r}")
    if token is not None and not isinstance(token, str):
        raise RprofTypeError("token must be text")
    if token is not None and (len(token) < _MIN_TOKEN_LENGTH or not token.isascii()):
        raise RprofValueError(
            f"token must have at least {_MIN_TOKEN_LENGTH} ASCII characters; make one with "
            "secrets.token_urlsafe()"
        )
    if not _loading.native().is_local_address(address) and not (allow_remote and token):
        raise RprofValueError(
            f"address={address!r} can be reached from other machines; use 127.0.0.1 or a Unix "
            f"socket, or give allow_remote=True and a token; see {page('reference/endpoint')}"
        )
    request = EndpointRequest(address, token)
    try:
        return Endpoint(_open(request))
    except RprofError:
        raise
    except BaseException:
        # Nobody has been given what would close it.
        _withdraw(request)
        raise


def serve_if_possible(address: str) -> None:
    """Serve with the token ``RPROF_SERVE_TOKEN``; if that cannot be, the log tells why.

    A token in the environment is the permission to be reached from elsewhere.

    Raises:
        RprofValueError: As for ``serve``.
    """
    token = os.environ.get("RPROF_SERVE_TOKEN") or None
    try:
        serve(address, token=token, allow_remote=token is not None)
    except (RprofStateError, RprofOSError) as error:
        _process.log().warning("no endpoint in this process: %s", error)


def _open(request: EndpointRequest) -> str:
    """Open this process's endpoint and return its address."""
    state, module = _process.current(), _hooks.native()
    _process.tell_native()
    address: str = module.serve(endpoint_options(request))
    state.endpoint, state.endpoint_address = request, address
    _process.tell_endpoint(state)
    return address


def _withdraw(request: EndpointRequest) -> None:
    """Close what a request for an endpoint has opened, if anything, before it was broken off."""
    state = _process.current()
    if state.endpoint is None or state.endpoint is request:
        _loading.native().stop_serving()
        state.endpoint, state.endpoint_address = None, ""
