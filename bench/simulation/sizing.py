"""How many of everything: arithmetic on measured service times."""

import math
from dataclasses import dataclass

from bench.simulation.services import Fleet, Prices, Services

MB, GB = 1e6, 1e9


@dataclass(frozen=True)
class Sizing:
    """What a fleet takes."""

    streams: int
    accelerators: int
    decode_cores: int
    decode_nodes: int
    bound_by: str
    """What fills a decode node first: `cores` or `memory`."""
    clip_kb: float
    redis_gb: float
    shards: int
    puts_per_shard_s: float
    pixels_gb_s: float
    """From decoders to workers."""
    records_gb_s: float
    """From workers to Redis."""
    cold_tb: float
    cost_per_hour: float
    cost_parts: dict[str, float]
    cost_per_stream_month: float


def size(fleet: Fleet, services: Services, prices: Prices) -> Sizing:
    """The machines that carry `fleet` at no more than its load."""
    frames_s = fleet.streams * fleet.fps * fleet.encoded
    clips_s = frames_s / fleet.clip_frames
    accelerators = math.ceil(frames_s / (services.accelerator_frames_s * fleet.load))
    cores = fleet.streams * cores_of_stream(services) / fleet.load
    memory_gb = fleet.streams * bytes_of_stream(services) / GB / fleet.load
    nodes = {"cores": cores / fleet.node_cores, "memory": memory_gb / fleet.node_gb}
    bound_by = max(nodes, key=lambda name: nodes[name])
    size_bytes = clip_bytes(fleet, services)
    redis_gb = clips_s * fleet.hot_s * (size_bytes + services.row_bytes) / GB
    # Rows stay in Redis for as long as the clips do, wherever these are.
    redis_gb += clips_s * fleet.cold_days * 86_400 * services.cold_row_bytes / GB
    usable_gb = fleet.shard_gb * fleet.load
    shards = math.ceil(max(redis_gb / usable_gb, clips_s * services.put_s / fleet.load))
    cold_gb = clips_s * fleet.cold_days * 86_400 * size_bytes / GB
    num_nodes = math.ceil(nodes[bound_by])
    servers = shards * (1 + fleet.replicas)
    parts = {
        "accelerators": accelerators * prices.accelerator,
        "decoding": num_nodes * (fleet.node_cores * prices.core + fleet.node_gb * prices.memory_gb),
        "redis": servers * (2 * prices.core + fleet.shard_gb * prices.memory_gb),
        "cold": cold_gb * prices.object_gb_month / 730,
    }
    cost = sum(parts.values())
    return Sizing(
        streams=fleet.streams,
        accelerators=accelerators,
        decode_cores=math.ceil(cores),
        decode_nodes=num_nodes,
        bound_by=bound_by,
        clip_kb=round(size_bytes / 1e3, 1),
        redis_gb=round(redis_gb, 1),
        shards=shards,
        puts_per_shard_s=round(clips_s / shards, 1),
        pixels_gb_s=round(frames_s * services.frame_bytes / GB, 3),
        records_gb_s=round(clips_s * size_bytes / GB, 3),
        cold_tb=round(cold_gb / 1e3, 1),
        cost_per_hour=round(cost, 1),
        cost_parts={name: round(part, 1) for name, part in parts.items()},
        cost_per_stream_month=round(cost * 730 / fleet.streams, 2),
    )


def cores_of_stream(services: Services) -> float:
    """Cores that one camera keeps busy, its session's share included."""
    return services.decode_cores * services.supervision


def bytes_of_stream(services: Services) -> float:
    """Resident bytes of one camera, its session's share included."""
    return services.decoder_bytes + services.session_bytes / services.session_streams


def clip_bytes(fleet: Fleet, services: Services) -> int:
    """Of one record."""
    tokens = round(services.cells * fleet.clip_frames * fleet.retention)
    return record_bytes(tokens, services)


def record_bytes(tokens: int, services: Services) -> int:
    """Of a record of so many bf16 tokens."""
    return tokens * (2 * services.width + services.token_bytes) + services.record_bytes
