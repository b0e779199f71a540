"""Where the time of a clip and of a question went, as traces; off unless asked for."""
