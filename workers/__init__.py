"""What runs on a machine: decoding, the model's two halves, compressing, answering."""
