"""What is to begin, as the native side takes it."""

# Imports nothing that the interpreter has not imported by itself, as _config.

from ._config import PRESETS, Config, native_memory, native_threads, program_name
from ._loading import native
from ._process import EndpointRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["endpoint_options", "flight_requests", "output_options", "recording_options"]

# How exactly the past can be cut.
_FLIGHT_WINDOW_NS = 1_000_000_000
# Options that are the same on both sides.
_SAME = ("max_overhead", "max_nodes", "max_depth", "keep_files", "keep_bytes", "engine")


def recording_options(config: Config, **requests: "Any") -> "dict[str, Any]":
    """Return the options of a recording, with what else is asked of it."""
    return {
        **{name: getattr(config, name) for name in _SAME},
        "period_ns": max(1, round(1e9 / config.rate)),
        "threads": native_threads(config),
        "program": program_name(),
        "locks": config.locks,
        **requests,
    }


def output_options(config: Config, output: str | None) -> "dict[str, Any]":
    """Return what else is asked of a recording that writes, window by window or at its end."""
    rotates = output is not None and native().output_rotates(output)
    return {
        "output": output,
        "window_ns": round(config.window * 1e9) if rotates else None,
        "memory": native_memory(config),
    }


def flight_requests(config: Config) -> "dict[str, Any]":
    """Return what else is asked of a recording of the last minutes."""
    return {
        "window_ns": _FLIGHT_WINDOW_NS,
        "requests_apart": True,
        "ring_ns": round(config.recent * 1e9),
        "ring_bytes": config.recent_bytes,
    }


def endpoint_options(request: EndpointRequest) -> "dict[str, Any]":
    """Return the options of an endpoint."""
    from .viewer import frame

    program = program_name()
    return {
        "address": request.address,
        "token": request.token,
        "program": program,
        "page": frame(program),
        **PRESETS["endpoint"].defaults,
    }
