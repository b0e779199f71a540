"""Clips in, compressed clips out: a loaded vision half and its reducer, on a CPU or a device."""

from workers.compress.worker import CompressSettings, CompressWorker, reducer_for

__all__ = ["CompressSettings", "CompressWorker", "reducer_for"]
