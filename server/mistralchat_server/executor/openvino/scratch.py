"""A pipeline with a model of no size, used to compile constraints for a tokenizer away from the real one.

OpenVINO GenAI compiles a constraint inside `step()`: all streams wait meanwhile, and one that does
not compile leaves the pipeline unusable. There is no call that only compiles. So constraints meet a
pipeline first that nobody waits for: one layer, a few thousand multiplications a token, and the real
tokenizer, whose compiled constraints are cached by the tokenizer and thereby shared.
"""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import openvino
import openvino_genai

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

# It tells of every file that it writes.
logging.getLogger("gguf").setLevel(logging.WARNING)

_WIDTH = 64
_HEADS = 2
_CONTEXT = 64


class ScratchPipeline:
    """Compiles constraints as the pipeline of `tokenizer` would."""

    def __init__(self, tokenizer: "Tokenizer", vocab_size: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = 4
        with tempfile.TemporaryDirectory(prefix="mistralchat-") as folder:
            path = Path(folder) / "scratch.gguf"
            _write_model(path, vocab_size)
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(path, tokenizer, scheduler, "CPU")

    def compile(self, config: "GenerationConfig") -> None:
        """Compiles the constraint of `config`, without Python's global lock.

        Raises RuntimeError where it does not compile; this object cannot be used afterwards.
        """
        prompt = openvino.Tensor(np.array([[0]], np.int64))
        self._pipeline.generate([prompt], [config])


def _write_model(path: Path, vocab_size: int) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tensor("token_embd.weight", np.zeros((vocab_size, _WIDTH), np.float16))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((_WIDTH, _WIDTH), np.float16))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
