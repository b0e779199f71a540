"""The pipeline's own words: values, errors and times that every room of it uses.

`types` what a store knows of streams and clips, `made_with` what a stream was asked to be, `clock`
and `times` how moments are counted and written, `errors` what can go wrong. Nothing is loaded here.
"""
