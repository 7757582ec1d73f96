"""OpenVINO GenAI's pipeline driven directly in a bare loop, for what the service is compared with."""

import time
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import openvino_genai as genai

from mistralchat_server.executor.openvino.options import OpenVINOOptions
from mistralchat_server.executor.openvino.pipeline import load_pipeline
from support.processes import model_path


class Run(NamedTuple):
    """What a number of questions asked at the same time took, in seconds."""

    to_first_token: float
    total: float
    tokens: int


class Pipeline:
    """The demo model, with the settings that the service gives the engine."""

    def __init__(self) -> None:
        self._pipeline = load_pipeline(model_path(), OpenVINOOptions())
        self._tokenizer = self._pipeline.get_tokenizer()
        self._ids = count()

    def run(self, questions: Sequence[str], tokens: int) -> Run:
        """Answers all questions at the same time, each with so many tokens."""
        config = genai.GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens)
        config.set_eos_token_id(self._tokenizer.get_eos_token_id())
        started, first, received = time.perf_counter(), 0.0, 0
        handles = []
        for question in questions:
            turn = [{"role": "user", "content": question}]
            prompt = self._tokenizer.encode(
                self._tokenizer.apply_chat_template(turn, add_generation_prompt=True)
            )
            handles.append(self._pipeline.add_request(next(self._ids), prompt.input_ids, config))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for handle in handles:
                if handle.can_read():
                    first = first or time.perf_counter()
                    received += sum(len(output.generated_ids) for output in handle.read().values())
        return Run(first - started, time.perf_counter() - started, received)
