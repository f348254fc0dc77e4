"""Which addresses are the public Internet's: our own tables, since those of Python differ by its version.

From the IANA registries of special-purpose addresses, https://www.iana.org/assignments/iana-ipv4-special-registry and
iana-ipv6-special-registry (as of 2026-11). What is assigned to a protocol is nobody's web server, also where the
registry calls it globally reachable.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

_SPECIAL_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private use
        "100.64.0.0/10",  # shared by carriers; Alibaba's metadata (100.100.100.200)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link local; the metadata of most clouds (169.254.169.254, 169.254.170.2)
        "172.16.0.0/12",  # private use
        "192.0.0.0/24",  # protocols; Oracle's metadata (192.0.0.192)
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # relays of 6to4, which are no more
        "192.168.0.0/16",  # private use
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "168.63.129.16/32",  # Azure's own services, told to machines by a public address
    )
)
_UNICAST_6 = IPv6Network("2000::/3")
"""All that is given out of IPv6; loopback, local and multicast addresses, and what will once be, are elsewhere."""
_SPECIAL_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols: Teredo, benchmarks, AMT, AS112, ORCHID, DRIP
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")
_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_ISATAP = (0x00005EFE, 0x02005EFE)
_LOW = 0xFFFFFFFF


def carried(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 one leads to, and nowhere else."""
    if isinstance(address, IPv4Address):
        return None
    number = int(address)
    if address in _SIX_TO_FOUR:
        return IPv4Address(number >> 80 & _LOW)
    if any(address in network for network in (_MAPPED, _NAT64, _TRANSLATED)):
        return IPv4Address(number & _LOW)
    if address in _COMPATIBLE and number > 1:
        return IPv4Address(number & _LOW)
    return None


def is_public(address: Address) -> bool:
    """Tell whether an address, and the one that it carries, is the public Internet's."""
    inner = carried(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if address not in _UNICAST_6 or any(address in network for network in _SPECIAL_6):
        return False
    # A tunnel within a site (ISATAP) has the IPv4 address that it ends at in any network's addresses.
    number = int(address)
    return number >> 32 & _LOW not in _ISATAP or is_public(IPv4Address(number & _LOW))
