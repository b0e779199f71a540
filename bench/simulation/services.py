"""Measured service times and assumed prices: all that the simulation is driven by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Services:
    """What one unit of each thing takes. Sources: sections of docs/benchmarks.md, unless told."""

    decode_cores: float = 2.35 / 19.4
    """Of a 1080p camera, every picture decoded as a live source's are: 19.4 seconds of video a CPU
    second with the GOP plan, 2.35 times as many as without it (decode, GOP 50)."""
    supervision: float = 1.06
    """CPU of the decoder's process, pipe and session over bare decoding (live)."""
    accelerator_frames_s: float = 486.0
    """Frames a second of a whole compress worker on an H200, SigLIP-so400m, `adaptive` (reduce)."""
    batch_frames: int = 64
    """Of that worker's batches (8 clips of 8 frames)."""
    batch_floor_s: float = 0.012
    """What a batch takes however small: a frame's share of 43 ms for 32 leaves about so much."""
    frame_bytes: int = 384 * 384 * 3
    """Pixels of a frame on its way from a decoder to a worker."""
    cells: int = 196
    """Tokens a frame before the reduction, LLaVA-OneVision (docs/models.md)."""
    width: int = 896
    """Of its 0.5B; 3584 for 7B."""
    token_bytes: int = 9
    """Beside the values: frame, cell, mass, kind (docs/record.md)."""
    record_bytes: int = 2_200
    """Of a record without tokens: envelope, schema, metadata, alignment (checked by `check`)."""
    row_bytes: int = 320
    """Of Redis's memory for a clip's key and index row (checked by `check`)."""
    cold_row_bytes: int = 140
    """Of the index row alone, of a clip in the cold tier (checked by `check`)."""
    put_s: float = 0.0004
    """Of a server's time for a clip: value, row, totals and position in one transaction."""
    claim_s: float = 0.00004
    """Of the server that has the list of streams, for one that is claimed and leased again: 0.125 s
    of its CPU for 3,336 of them, beats and looks of the test included (docs/scaling.md)."""
    decoder_bytes: int = 90 << 20
    """Resident, of a stream's decoder (soak)."""
    session_bytes: int = 690 << 20
    """Resident, of a session's process with all its libraries (soak)."""
    session_streams: int = 16
    """`ray.streams_per_session`."""
    silent_s: float = 3.0
    """After which a session that says nothing has lost its streams (docs/scaling.md)."""
    beat_s: float = 0.5
    """Between two looks of a session at the others."""
    start_cpu_s: float = 0.4
    """CPU time of a decoder's process from its start to the source's being open."""
    keyframe_s: float = 2.0
    """Between two pictures from which a source can be read (GOP 50 at 25 a second)."""


@dataclass(frozen=True)
class Prices:
    """Dollars an hour: round list prices of large clouds. An assumption, not measured."""

    accelerator: float = 3.5
    """An H200 with its share of a machine."""
    core: float = 0.04
    memory_gb: float = 0.005
    """Of machines that are bought for it; a Redis node is this and two cores."""
    object_gb_month: float = 0.023


@dataclass(frozen=True)
class Fleet:
    """Streams, what is asked of them, and the machines."""

    streams: int = 10_000
    fps: float = 1.0
    retention: float = 0.10
    encoded: float = 1.0
    """Share of the clips that is encoded; the rest is held still (`live.hold_still`)."""
    clip_frames: int = 8
    hot_s: float = 3600.0
    """How long a clip stays in Redis before it goes to the cold tier."""
    cold_days: float = 30.0
    load: float = 0.8
    """Of accelerators, cores and memory, at most."""
    node_cores: int = 32
    node_gb: int = 128
    shard_gb: int = 64
    replicas: int = 1
    """Of every shard of Redis."""
