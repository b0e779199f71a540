"""aot-stream as a model of lmms-eval: `--model aot_stream`.

    lmms-eval --model aot_stream --tasks mvbench \\
      --model_args model=llava-hf/llava-onevision-qwen2-7b-ov-hf,device=cuda,dtype=bfloat16

Every video is ingested once, as a stream named by its content, and is found again by the next
question, task and run; what is asked reads the stored tokens alone.
"""

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest("aot_stream", simple_class_path="aot_lmms_eval.model.AotStream")
"""What lmms-eval finds by the entry point."""
