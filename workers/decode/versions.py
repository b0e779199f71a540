"""Which decoder this is: asked by the doctor."""

import av


def decoder_versions() -> tuple[str, str]:
    """Version of PyAV, and of the FFmpeg it carries."""
    return av.__version__, str(av.ffmpeg_version_info)
