"""Machines, as far as they are some on one computer: a network, processes and a disk of their own.

Each is a network namespace at the end of a cable to one switch, and in it a process that all
others descend from: killed, it takes them along at once, as a power cut does. Its cable can be
pulled. Of its disk /tmp/ray is its own and goes with it. Needs root on Linux, `ip` and `unshare`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

OWN_FOLDER = Path("/tmp/ray")
"""What each machine has for itself: Ray's files, and what is told to lie below."""
START_S = 60.0

_INIT = """
import os, select
os.write(1, b"up\\n")
while not select.select([0], [], [], 0.2)[0]:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""
"""What a machine's processes descend from: it collects those that have ended, and ends with the
process that started the machine, which takes all others along."""


def why_not() -> str | None:
    """What is missing for machines; None where they can be had."""
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"no program {program}"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "ip", "link", "show"],
        capture_output=True,
        timeout=START_S,
    )
    name = f"t{os.getpid()}"
    made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True)
    subprocess.run(["ip", "link", "del", name], capture_output=True)
    return "namespaces and bridges need root" if tried.returncode or made.returncode else None


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=START_S)


class Switch:
    """What machines are plugged into; this process is reached through it at `address`."""

    def __init__(self, subnet: str) -> None:
        """`subnet`: the first three numbers of its addresses, as `10.77.3`."""
        self.subnet, self.name = subnet, f"sw{os.getpid()}"
        self.address = f"{subnet}.254"
        _ip("link", "add", self.name, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def close(self) -> None:
        """Take it away."""
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self.name)


@contextmanager
def open_switch() -> Iterator[Switch]:
    """With a subnet that depends on the process, so that several may run."""
    switch = Switch(f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}")
    try:
        yield switch
    finally:
        switch.close()


class Machine:
    """Started, killed, started again at the same address."""

    def __init__(self, switch: Switch, number: int, folder: Path, env: Mapping[str, str]) -> None:
        self.address = f"{switch.subnet}.{number}"
        self._switch, self._folder, self._env = switch, folder, dict(env)
        self._cable = f"c{os.getpid()}n{number}"
        self._init: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Power on: an empty disk, a cable, no process but the first."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        OWN_FOLDER.mkdir(exist_ok=True)
        own_disk = f"mount --bind {self._folder} {OWN_FOLDER} && exec {sys.executable} -c '{_INIT}'"
        apart = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._init = subprocess.Popen(
            [*apart, "sh", "-c", own_disk],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == b"up\n"
        _ip(*f"link add {self._cable} type veth peer name eth0 netns {self._pid()}".split())
        _ip("link", "set", self._cable, "master", self._switch.name, "up")
        for words in (
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {self._switch.address}",
        ):
            self.run("ip", *words.split(), timeout_s=START_S)

    def popen(self, command: Sequence[str], **options) -> subprocess.Popen:
        """Have it run a program."""
        into = ["nsenter", f"--target={self._pid()}", "--net", "--mount", "--pid", "--"]
        return subprocess.Popen([*into, *command], env=self._env, **options)

    def run(self, *command: str, timeout_s: float) -> str:
        """Have it run a program to its end; what it wrote. Fails where that failed."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = self.popen(command, **pipes)
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=START_S)
            raise
        assert process.returncode == 0, f"{command[:4]}: {out}"
        return out

    def _pid(self) -> int:
        """Of the first process, as this one sees it."""
        assert self._init is not None, "it is off"
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text()
        return int(children.split()[0])

    def kill(self) -> None:
        """Power off: all of its processes are gone, and its address answers no more."""
        if self._init is None:
            return
        with suppress(ProcessLookupError, IndexError, OSError):
            os.kill(self._pid(), signal.SIGKILL)
        self._init.kill()
        self._init.communicate(timeout=START_S)
        self._init = None
        with suppress(subprocess.CalledProcessError):  # it went with its other end
            _ip("link", "del", self._cable)

    def pull_cable(self) -> None:
        """It reaches nobody, and is reached by nobody; nothing tells it so."""
        _ip("link", "set", self._cable, "down")

    def plug_cable(self) -> None:
        """As before."""
        _ip("link", "set", self._cable, "up")
