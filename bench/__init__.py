"""Benchmarks and their stand-ins; above the product, which imports none of them."""
