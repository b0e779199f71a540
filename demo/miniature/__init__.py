"""The miniature's model: vision half, language half, tokenizer."""
