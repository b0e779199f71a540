"""What is wrong with a server, from the facts that it tells of itself."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pipeline.values.errors import StoreUnsafe

OLDEST_SERVER = (6, 2)
"""Below 6.0.9 a watched key that expires does not stop a transaction, and fencing would leak."""


def require_no_eviction(facts: Mapping[str, Any], where: str) -> None:
    """Raise `StoreUnsafe` for a server that drops clips by itself once it is full."""
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and facts.get("maxmemory"):
        raise StoreUnsafe(
            f"{where}: maxmemory-policy is {policy}, which drops clips and leases when "
            "memory runs out; expected noeviction: CONFIG SET maxmemory-policy noeviction"
        )


def name_server(facts: Mapping[str, Any]) -> str:
    """Product and version."""
    if "valkey_version" in facts:
        return f"valkey {facts['valkey_version']}"
    return f"redis {facts.get('redis_version', '(version not told)')}"


def iter_problems(facts: Mapping[str, Any], url: str) -> Iterator[str]:
    """What the doctor should say about a server."""
    version = tuple(int(part) for part in str(facts.get("redis_version", "0")).split(".")[:2])
    if version < OLDEST_SERVER:
        yield f"server version {facts.get('redis_version')}, expected 6.2 or newer; upgrade it"
    if facts.get("maxmemory_policy", "noeviction") != "noeviction":
        yield f"maxmemory-policy is {facts['maxmemory_policy']}, expected noeviction; set it"
    if not facts.get("aof_enabled"):
        yield "append-only file is off, a crash loses clips; CONFIG SET appendonly yes"
    if facts.get("aof_last_write_status", "ok") != "ok":
        yield "the last write of the append-only file failed; free disk space"
    if facts.get("role") not in (None, "master"):
        yield f"server is a {facts['role']}, expected the primary; point the URL at it"
    parts = urlsplit(url)
    is_near = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme in ("redis", "sentinel") and not is_near:
        yield f"{parts.scheme}:// to {parts.hostname} is not encrypted; use rediss://"
