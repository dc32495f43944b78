"""Which addresses are this machine's own."""

import ipaddress
from typing import Final

_LOCAL_NAMES: Final = ("localhost", "localhost.")


def is_loopback(host: str) -> bool:
    """Tell whether an address or a name is this machine's own, seen from nowhere else."""
    if host.lower() in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
