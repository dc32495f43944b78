"""The ways to servers: their addresses, which must hold no secret, and proxies."""

import os
import re
from importlib.util import find_spec
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit
from urllib.request import getproxies

from retrieval.errors import InvalidArgument

_PROXIES: Final = ("http", "https", "socks5", "socks5h")  # that every HTTP client here can use
_SOCKS: Final = ("socksio", "socks")  # by which clients reach a SOCKS proxy: httpx, and requests


def parse_address(
    address: str, what: str, *, schemes: tuple[str, ...], instead: str, query: tuple[str, ...] = (), user: bool = False
) -> SplitResult:
    """Return the parts of an address that may be stored, logged and shown, since it holds no secret.

    Args:
        address: of a server.
        what: it is the address of, as an error calls it.
        schemes: those that it may begin with.
        instead: what an error says of where a key goes.
        query: the parameters that it may have.
        user: whether it may name a user.

    Raises:
        InvalidArgument: it is no address, or holds a user, a password, a fragment or another parameter; the error
            repeats nothing of these.
    """
    try:
        parts = urlsplit(address)
        whole = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        asked = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # a port that is no number, a bracket that is not closed, a query without names
        whole, asked, parts = False, [], SplitResult("", "", "", "", "")
    if not whole:
        raise InvalidArgument(f"the address of {what} is none: one that begins with {schemes[0]}://HOST expected")
    has_user = parts.username is not None and not user
    if has_user or parts.password is not None or parts.fragment or not {name for name, _ in asked} <= set(query):
        among = f" other than {', '.join(query)}" if query else ""
        raise InvalidArgument(
            f"the address of {what} at {parts.hostname} holds a user, a password, a fragment or a query{among}, which"
            f" would be stored and shown: {instead}"
        )
    return parts


def without_address(name: str) -> str:
    """Return what stands before an address in a name such as ``openai:MODEL@URL``, which may hold a secret."""
    return re.split(r"@|\w*:?//", name, maxsplit=1)[0]


def check_proxies() -> None:
    """See that the environment's proxies can be used; to be asked before a client for HTTP is made.

    Raises:
        InvalidArgument: one is no address, or a SOCKS proxy without the packages that it takes. It is called by its
            variable, since its address may hold a password.
    """
    for scheme, address in getproxies().items():
        if scheme not in ("http", "https", "all"):
            continue
        names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
        variable = next((name for name in names if os.environ.get(name)), f"the system's setting of its {scheme} proxy")
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
            usable = parts.scheme in _PROXIES and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, or a bracket that is not closed
            usable = False
        if not usable:
            raise InvalidArgument(
                f"{variable} names no proxy that can be used: http://HOST:PORT or socks5://HOST:PORT expected; mend or"
                " unset it"
            )
        if parts.scheme.startswith("socks") and not all(map(find_spec, _SOCKS)):
            raise InvalidArgument(
                f"{variable} names a SOCKS proxy, which takes two packages that are not installed: pip install"
                " 'visual-memory-agent[socks]', or unset it"
            )
