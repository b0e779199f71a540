"""A stream from outside: what it looks like, and what is done to it as a whole.

`views` its facts for whoever shows them, `sessions` ends and resumes what writes it, `transfer`
brings an exported one back. Knows of no terminal. Nothing is loaded here.
"""
