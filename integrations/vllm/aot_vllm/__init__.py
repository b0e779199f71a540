"""An unmodified `vllm serve` answers about any window that aot-stream has stored, by two doors.

    model:
      engine: vllm+http://127.0.0.1:8000          # tokens travel with the question
      engine: vllm-store+http://127.0.0.1:8000    # names travel, the server reads the store

`engine` is the client: it makes of a question and what is read for it a request to vLLM.
`connector` is the second door's other side: the store as vLLM's encoder cache. `items` is what they
agree on: how a run of visual tokens is named.
"""
