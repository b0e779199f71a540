"""What whoever shows the product may do with it: one way in for the command line and a service.

`pipeline` fills the store and asks it, `views` tells what a stream looks like, `sessions` ends and
resumes what writes one, `transfer` brings an exported one back. Knows of no terminal and of no
HTTP. Nothing is loaded here.
"""
