"""The TensorRT-LLM executor: NVIDIA GPUs, through the LLM API alone.

Written from the library's public sources for 1.2.1 and for 1.3 and 1.4. It has run on a stand-in of
the library only (tests/unit/executor_trtllm), never on the library itself nor on a GPU of its kind.
"""
