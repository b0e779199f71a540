"""A site: a head, nodes that decode and nodes that compress, cameras, and a store that is secured.

Ray's token is on, the head's books lie in the same server under a user of their own. All is real
but for the wires: machines are namespaces of this one.
"""

import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from bench.camera import encode_units
from bench.rtsp_server import Recording, serve_apart
from pipeline.ingest.hosted import open_roster
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.roster import Roster, RosterView
from tests.checkpoints import write_tiny_checkpoint
from tests.site.machines import Machine, Switch, open_switch
from tests.site.secured import PASSWORDS, PORT, Secured, serve_secured
from tests.videos import draw_frame
from tests.waits import HANG_S, wait_until

ROOT = Path(__file__).parents[2]
RAY_PORT = 6379
KINDS = ("head", "decode", "decode", "compress", "compress")
OF_KIND = {
    "head": ["--num-cpus=0", "--include-dashboard=false"],
    "decode": ["--num-cpus=2", '--resources={"decoding": 2}'],
    "compress": ["--num-cpus=2", '--resources={"compressing": 2}'],
}
FOUND_OUT = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}
"""How soon Ray finds out that a machine is gone; as docs/scaling.md has it."""
CAMERA_FPS = 5


@dataclass(frozen=True)
class Rates:
    """Of the streams."""

    streams: int = 16
    fps: float = 1.0
    clip_frames: int = 4

    @property
    def step_s(self) -> float:
        return 1 / self.fps

    @property
    def clip_s(self) -> float:
        return self.clip_frames / self.fps


_COUNT = """
import os, ray
from contextlib import suppress
from workers.cluster.cluster import ClusterSettings, open_cluster

ready = 0
with open_cluster(ClusterSettings(os.environ["AOT_RAY__ADDRESS"], connect_timeout_s=120)):
    for name in ray.util.list_named_actors():
        with suppress(ValueError, ray.exceptions.RayError):
            if name.startswith("compress-"):
                pulse = ray.get_actor(name).pulse.remote("site")
                ready += ray.get(pulse, timeout=5).state == "ready"
print(ready)
"""


class Site:
    """The machines with what they are to each other."""

    def __init__(self, switch: Switch, server: Secured, folder: Path, camera: str, rates: Rates):
        self.rates, self._folder = rates, folder
        self._env = self._environment(server, camera)
        self.store = StoreConfig(server.url())
        self._switch = switch
        self.kinds: dict[Machine, str] = {}
        for kind in KINDS:
            self.add(kind)
        self.head = next(iter(self.kinds))

    def add(self, kind: str) -> Machine:
        """One more machine, which is off."""
        number = len(self.kinds) + 1
        machine = Machine(self._switch, number, self._folder / f"disk{number}", self._env)
        self.kinds[machine] = kind
        return machine

    def _environment(self, server: Secured, camera: str) -> dict[str, str]:
        """Of every process of every machine."""
        head = f"{server.address.rpartition('.')[0]}.1:{RAY_PORT}"
        subnet = f"{server.address.rpartition('.')[0]}.0/24"
        return {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_REDIS_ADDRESS": f"rediss://{server.address}:{PORT}",
            "RAY_REDIS_CA_CERT": str(server.authority),
            **FOUND_OUT,
            "AOT_MODEL__ID": str(self._model()),
            "AOT_STORE__URL": server.url().replace(f":{PASSWORDS['aot']}@", "@"),
            "AOT_STORE__PASSWORD": PASSWORDS["aot"],
            "AOT_INGEST__FPS": str(self.rates.fps),
            "AOT_INGEST__CLIP_FRAMES": str(self.rates.clip_frames),
            "AOT_LIVE__NETWORKS": json.dumps([subnet]),
            "AOT_LIVE__STALL_S": "10",
            "AOT_SPOOL__FOLDER": "/tmp/ray/spool",
            "AOT_LOG__FOLDER": "/tmp/ray/logs",
            "AOT_RAY__ENABLED": "true",
            "AOT_RAY__ADDRESS": head,
            "AOT_RAY__CONNECT_TIMEOUT_S": "120",
            "AOT_RAY__STREAMS_PER_SESSION": str(self.rates.streams),  # one node carries them all
            "AOT_RAY__WORKERS": "2",
            "AOT_RAY__WORKER_RESOURCES": '{"compressing": 2}',
            "AOT_RAY__SESSION_RESOURCES": '{"decoding": 2}',
            "CAMERA": camera,
        }

    def _model(self) -> Path:
        path = self._folder / "model"
        return path if path.exists() else write_tiny_checkpoint(path)

    def of_kind(self, kind: str) -> list[Machine]:
        """All of them, on or off."""
        return [machine for machine, its in self.kinds.items() if its == kind]

    def start(self, machine: Machine) -> None:
        """Power on, and have Ray started, as a cloud's start-up commands do."""
        kind = self.kinds[machine]
        where = [f"--address={self.head.address}:{RAY_PORT}"]
        if kind == "head":
            where = ["--head", f"--port={RAY_PORT}"]
            where += ["--redis-username=ray", f"--redis-password={PASSWORDS['ray']}"]
        options = [f"--node-ip-address={machine.address}", "--disable-usage-stats"]
        options += [f"--object-store-memory={80 * 2**20}", *OF_KIND[kind]]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *options]
        until_s = time.monotonic() + HANG_S
        while True:
            machine.start()
            try:
                machine.run(*command, timeout_s=HANG_S)
                return
            except (AssertionError, TimeoutExpired):  # its head may be away just now
                if time.monotonic() > until_s:
                    raise
                machine.kill()
                time.sleep(1.0)

    def aot(self, *arguments: str, settings: Path | None = None, timeout_s: float = HANG_S) -> str:
        """A command of the product on the head."""
        given = [] if settings is None else ["--config", str(settings)]
        call = "import sys; from pipeline.cli import main; sys.exit(main())"
        return self.head.run(sys.executable, "-c", call, *given, *arguments, timeout_s=timeout_s)

    def wait_for_workers(self, number: int) -> None:
        """Until so many compress workers have loaded their model."""
        until_s = time.monotonic() + HANG_S
        # Ray may have told of a dead node before: the count is the last line.
        while (
            int(self.head.run(sys.executable, "-c", _COUNT, timeout_s=HANG_S).split()[-1]) < number
        ):
            assert time.monotonic() < until_s, f"{number} workers did not come"

    def write_settings(self, names: list[str], name: str = "aot.yaml", **more: Any) -> Path:
        """A settings file with these cameras."""
        path = self._folder / name
        streams = [{"name": stream, "url": self._env["CAMERA"]} for stream in names]
        path.write_text(json.dumps({**more, "streams": streams}))  # JSON is YAML
        return path

    def close(self) -> None:
        """Power off."""
        for machine in self.kinds:
            machine.kill()


def is_settled(view: RosterView, nodes: int = 2) -> bool:
    """Whether all streams are held, evenly, by hosts of so many machines and no others."""
    shares = [host.num_streams for host in view.hosts if host.takes]
    places = {host.seat.node for host in view.hosts if host.takes}
    return (
        view.num_free == 0
        and len(view.hosts) == len(shares)
        and sum(shares) == view.num_wanted
        and len(places) == nodes
        and max(shares) - min(shares) <= 1
    )


@contextmanager
def open_site(program: str, rates: Rates) -> Iterator[tuple[Site, Roster, ClipStore]]:
    """All machines on; everything is gone at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aot-site-")))
        switch = stack.enter_context(open_switch())
        server = stack.enter_context(serve_secured(program, switch.address, folder))
        pictures = (draw_frame(i, 96, 128) for i in range(6 * CAMERA_FPS))
        recording = Recording(encode_units(pictures, CAMERA_FPS), CAMERA_FPS)
        url, _ = stack.enter_context(serve_apart(recording, host=switch.address))
        site = Site(switch, server, folder, url, rates)
        stack.callback(site.close)
        site.start(site.head)
        with ThreadPoolExecutor() as pool:
            list(pool.map(site.start, [*site.kinds][1:]))
        roster = stack.enter_context(open_roster(site.store))
        yield site, roster, stack.enter_context(open_store(site.store))


def wait_settled(roster: Roster, limit_s: float = HANG_S) -> float:
    """Seconds until the streams are shared evenly."""
    began_s = time.monotonic()
    wait_until(lambda: is_settled(roster.view()), limit_s, poll_s=0.5)
    return time.monotonic() - began_s
