"""On Ray: a session decodes, two workers compress, and what comes out is the same to the byte.

A private cluster is started on this machine; `ray={"address": "head:6379"}` joins another.
"""

from stage import open_stage

with open_stage(ray={"enabled": True, "workers": 2}) as (pipeline, videos):
    for progress in pipeline.iter_ingest(str(videos["camera"]), stream="camera"):
        print(f"{progress.state}: {progress.position_s:.0f} s committed, {progress.clips} clips")
    for clip in pipeline.clips("camera"):
        print(f"clip {clip.index}: {len(clip.tokens.tokens)} tokens")
