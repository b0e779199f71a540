"""Path 1: from a video to the store."""
