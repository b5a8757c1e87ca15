"""What an endpoint answers. Neither the question nor the token goes where it need not."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from ..errors import RprofOSError, RprofValueError

__all__ = ["fetch"]

_TUNNEL = (
    "the token is sent to this machine alone, as it would be readable on the way; reach the "
    "endpoint through a tunnel, for example ssh -L 6060:localhost:6060 HOST"
)


class _NoRedirect(HTTPRedirectHandler):
    """An endpoint redirects nobody: whatever does is another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(address: str, path: str, timeout: float) -> bytes:
    """Return what the endpoint at `address` answers for `path` within `timeout` seconds.

    This machine is asked without any proxy, and only it is sent the token in RPROF_SERVE_TOKEN.

    Raises:
        RprofOSError: It does not answer, or refuses.
        RprofValueError: The address is none, or the token cannot be one.
    """
    host = _host(address)
    request = Request(address.rstrip("/") + path)
    token = os.environ.get("RPROF_SERVE_TOKEN", "")
    if not token.isascii() or not (token + " ").isprintable():
        # Not shown: http.client would, in its error.
        raise RprofValueError("RPROF_SERVE_TOKEN holds no token, which is one line of ASCII")
    is_here = _is_this_machine(host)
    handlers: list[Any] = [_NoRedirect()]
    if is_here:
        handlers.append(ProxyHandler({}))
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with build_opener(*handlers).open(request, timeout=timeout) as answer:
            body: bytes = answer.read()
            return body
    except HTTPError as error:
        words = error.read(1000).decode("utf-8", "replace").strip() or str(error)
        hint = f" ({_TUNNEL})" if token and not is_here and error.code in (401, 403) else ""
        raise RprofOSError(f"{address} refuses: {words}{hint}") from None
    except (URLError, OSError) as error:
        raise RprofOSError(f"{address} does not answer: {error}") from None


def _host(address: str) -> str:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    else:
        if parts.username is not None or parts.password is not None:
            # Not shown either: it may be the token.
            raise RprofValueError(
                "the address has a user name or password in it, which everybody sees in the list "
                "of processes; set RPROF_SERVE_TOKEN"
            )
    if not host:
        raise RprofValueError(f"{address} is no address; use for example http://127.0.0.1:6060")
    return host


def _is_this_machine(host: str) -> bool:
    """Whether all that the name stands for is a loopback address."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return host == "localhost" or host.endswith(".localhost")
    return bool(found) and all(_is_loopback(str(name).partition("%")[0]) for name in found)


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    # ::ffff:127.0.0.1, which CPython before 3.13 does not take for one.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
