"""How batches go over an accelerator: packed copies, captured graphs, two batches at a time."""
