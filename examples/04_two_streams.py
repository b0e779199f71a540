"""One question about two streams: every stretch is marked with its stream and its time."""

from stage import open_stage

with open_stage(ray={"enabled": False}) as (pipeline, videos):
    for stream, video in videos.items():
        pipeline.ingest(str(video), stream=stream)
    print("streams:", ", ".join(sorted(info.stream_id for info in pipeline.streams())))

    answer = pipeline.ask("what was on slide X ?", streams=["camera", "lecture"])
    print(answer.text)
    print(f"{answer.visual_tokens} tokens of {len(answer.citations)} clips were read:")
    for span in answer.citations:
        print(f"  {span.stream_id}, {span.start_s:.0f} to {span.end_s:.0f} s")
