"""The address of an endpoint: whether it can be one, how a message names it, and whether a server is there."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ..settings import CourseError

__all__ = ["OPENAI", "check_address", "knock", "of_openai", "site"]

OPENAI = "https://api.openai.com/v1"


def of_openai(base_url: str) -> bool:
    """Whether the address is one of OpenAI's own."""
    host = urlsplit(base_url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


def check_address(base_url: str) -> None:
    """CourseError where this can be no endpoint's address."""
    try:
        where = urlsplit(base_url)
        sound = where.scheme in ("http", "https") and bool(where.hostname) and where.port != 0
    except ValueError:  # no number for a port, or half an IPv6 address
        sound = False
    if not sound:
        raise CourseError(
            "The endpoint's address must begin with http:// or https:// and a host, and usually ends in /v1."
        )


def site(base_url: str) -> str:
    """The address as a message may show it: without a user's name or a password, a path or a query."""
    where = urlsplit(base_url)
    return f"{where.scheme}://{where.netloc.rpartition('@')[2]}"


def knock(base_url: str) -> None:
    """One connection, by which nothing is sent, before the first call: a fault that may pass is left to the calls.

    Raises:
        CourseError: the host is unknown, or refuses the connection.
    """
    where, proxies = urlsplit(base_url), getproxies()
    host, port = where.hostname or "", where.port or (443 if where.scheme == "https" else 80)
    if {where.scheme, "all"} & {*proxies} and not proxy_bypass(f"{host}:{port}"):
        return  # the proxy connects, and may know hosts that this machine does not
    try:
        socket.create_connection((host, port), timeout=10).close()
        return
    except ConnectionRefusedError:
        why = "the connection is refused"
    except (socket.gaierror, UnicodeError):
        why = "no such host is found"
    except OSError:
        return
    raise CourseError(
        f"Nothing answers at {site(base_url)} ({why}): does a server run there? Start it, or mend the address."
    )
