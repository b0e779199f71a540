"""A video into the store, then a question about eight of its seconds, without the video."""

from stage import open_stage

with open_stage(ray={"enabled": False}) as (pipeline, videos):
    done = pipeline.ingest(str(videos["camera"]), stream="camera")
    print(f"{done.clips} clips, {done.retention:.0%} of the tokens, {done.stored_bytes} bytes")
    videos["camera"].unlink()

    answer = pipeline.ask(
        "was there a white triangle ?", streams=["camera"], start_s=8.0, end_s=16.0
    )
    print(answer.text)
    for span in answer.citations:
        print(f"from {span.stream_id}, {span.start_s:.0f} to {span.end_s:.0f} s")
