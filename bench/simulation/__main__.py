"""`python -m bench.simulation`: tables for people, and one last line of JSON."""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace

from bench.facts import measured_commit
from bench.simulation.check import check_all
from bench.simulation.queueing import simulate_worker
from bench.simulation.recovery import simulate_loss
from bench.simulation.services import Fleet, Prices, Services
from bench.simulation.sizing import Sizing, size

CHANGES = {
    "as it is": {},
    "4 frames a second": {"fps": 4.0},
    "a frame in 4 s": {"fps": 0.25},
    "retention 5 %": {"retention": 0.05},
    "retention 20 %": {"retention": 0.20},
    "half held still": {"encoded": 0.5},
    "nine tenths held still": {"encoded": 0.1},
    "10 minutes in Redis": {"hot_s": 600.0},
    "a day in Redis": {"hot_s": 86_400.0},
}


def run(streams: Iterable[int], *, seed: int = 0) -> dict[str, object]:
    """Everything but the checks."""
    services, prices, fleet = Services(), Prices(), Fleet()
    per_worker = int(services.accelerator_frames_s * fleet.load / fleet.fps)
    queue = simulate_worker(fleet, services, streams=per_worker, seed=seed)
    fleets = []
    for count in streams:
        base = replace(fleet, streams=count)
        sizes = {
            name: asdict(size(replace(base, **change), services, prices))
            for name, change in CHANGES.items()
        }
        loss = simulate_loss(base, services, nodes=sizes["as it is"]["decode_nodes"], seed=seed)
        fleets.append({"streams": count, "sizes": sizes, "loss": asdict(loss)})
    return {
        "bench": "simulation",
        "commit": measured_commit(),
        "seed": seed,
        "worker": asdict(queue),
        "fleets": fleets,
    }


def main(given: list[str]) -> int:
    """1 where a prediction is off by more than its bound."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulation")
    parser.add_argument("--streams", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="against measured runs")
    parser.add_argument("--live", action="store_true", help="with cameras, for some minutes")
    options = parser.parse_args(given)
    result = run(options.streams, seed=options.seed)
    _print_tables(result)
    code = 0
    if options.check or options.live:
        checks = check_all(
            Services(), live=options.live, on_progress=lambda text: print(text, file=sys.stderr)
        )
        print("\n| predicted | figure | measured | off by |\n|---|---|---|---|")
        for one in checks:
            print(f"| {one.what} | {one.predicted:.4g} | {one.measured:.4g} | {one.error:+.1%} |")
        result["checks"] = [{**asdict(one), "error": round(one.error, 4)} for one in checks]
        code = 0 if all(one.holds for one in checks) else 1
    print(json.dumps(result))
    return code


def _print_tables(result: dict) -> None:
    queue = result["worker"]
    print(
        f"a worker with {queue['streams']} streams: busy {queue['busy']:.1%}, a frame waits "
        f"{queue['p50_s']:.3f} s (p50), {queue['p99_s']:.3f} s (p99)"
    )
    names = [name for name in Sizing.__dataclass_fields__ if name not in ("streams", "cost_parts")]
    for fleet in result["fleets"]:
        print(f"\n{fleet['streams']:,} streams\n")
        print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
        for change, figures in fleet["sizes"].items():
            print(f"| {change} | " + " | ".join(f"{figures[name]}" for name in names) + " |")
        print(f"\ncost an hour: {fleet['sizes']['as it is']['cost_parts']}")
        print(f"loss of 1 %: {fleet['loss']}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
