"""What an endpoint answers. Neither the question nor the token goes where it need not."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from ..errors import RprofOSError

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
    """
    request = Request(address.rstrip("/") + path)
    token = os.environ.get("RPROF_SERVE_TOKEN")
    is_here = _is_this_machine(urlsplit(address).hostname or "")
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


def _is_this_machine(host: str) -> bool:
    """Whether all that the name stands for is a loopback address."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return host == "localhost" or host.endswith(".localhost")
    return bool(found) and all(
        ipaddress.ip_address(str(name).partition("%")[0]).is_loopback for name in found
    )
