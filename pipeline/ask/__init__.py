"""Path 2: from a question to an answer."""
