"""OpenVINO GenAI's continuous batching pipeline, with the settings that this service gives it."""

import os
from pathlib import Path

import openvino_genai

from .options import OpenVINOOptions

#: Without these, activations and cache are rounded more coarsely, differently for each size of a batch.
_REPRODUCIBLE = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
}


def load_pipeline(path: Path, options: OpenVINOOptions) -> openvino_genai.ContinuousBatchingPipeline:
    """The pipeline for a model's files. Raises `RuntimeError` with the engine's words if it cannot be."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = options.max_batch_size
    # The memory is taken as it is used, up to this size; it holds prefixes that calls have in common, too.
    scheduler.cache_size = options.kv_cache_gb or max(1, _memory_bytes() // 4 >> 30)
    scheduler.enable_prefix_caching = True
    properties: dict[str, object] = {"INFERENCE_NUM_THREADS": options.threads} if options.threads else {}
    if options.reproducible:
        properties |= _REPRODUCIBLE
    return openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU", properties)


def _memory_bytes() -> int:
    """What this process may use: the machine's memory, or less in a container."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return installed
