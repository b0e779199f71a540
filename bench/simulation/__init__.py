"""How many machines a number of streams takes, what they cost, and how soon a loss is made good.

    python -m bench.simulation [--streams 10000 1000000] [--seed 0] [--check]

`services` has what was measured, each figure with where; `sizing` is arithmetic on it; `queueing`
and `recovery` are event simulations (SimPy) of one accelerator's queue and of machines that are
lost; `check` compares predictions with measured runs, and alone runs the product.
"""
