"""What the commands that run on Ray share."""

from __future__ import annotations

import ipaddress
import re

from converter.errors import UserError
from converter.ray_cluster import Replicas

MOST = 1024


def parse_replicas(text: str | None) -> Replicas:
    """`N` or `N..M` as a range; None is one. Raises `UserError`."""
    if text is None:
        return Replicas()
    found = re.fullmatch(r"(\d{1,4})(?:\.\.(\d{1,4}))?", text, re.ASCII)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most <= MOST:
        raise UserError(f"--replicas {text} is no number or range such as 2 or 1..4.")
    return Replicas(least, most)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
