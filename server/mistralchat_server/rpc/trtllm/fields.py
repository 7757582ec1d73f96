"""What becomes of each field of the token-level GenerateRequest: honoured, without effect, or refused."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from ..errors import CallError, unsupported


class Plain(Enum):
    """A field that is never refused for being set."""

    #: `submission` and `answer` do what it says.
    HONOURED = "honoured"
    #: It asks for nothing that could be done or left undone.
    NEUTRAL = "neutral"
    #: A message, each of whose fields is in the table.
    PARTS = "parts"


@dataclass(frozen=True)
class Refused:
    """A field that ends the call with UNIMPLEMENTED, unless its value asks for nothing."""

    reason: str
    neutral: float | None = None


_LOGITS = "tensors are not sent over this protocol"
_ONE_MODEL = "one model is served, without adapters"
_SAMPLING = "the executors have no such way of sampling"
_BEAMS = "the executors' beam search has no such setting"

#: By the field's path from GenerateRequest. A test fails on a field that is not here.
FIELDS: dict[str, Plain | Refused] = {
    "request_id": Plain.HONOURED,
    "tokenized": Plain.PARTS,
    "tokenized.original_text": Plain.NEUTRAL,  # the ids alone are the prompt
    "tokenized.input_token_ids": Plain.HONOURED,
    "tokenized.query_token_ids": Refused("there is no star attention"),
    "sampling_config": Plain.PARTS,
    "sampling_config.beam_width": Plain.HONOURED,
    "sampling_config.num_return_sequences": Plain.HONOURED,  # up to the beam width, see `submission`
    "sampling_config.top_k": Plain.HONOURED,
    "sampling_config.top_p": Plain.HONOURED,
    "sampling_config.top_p_min": Refused(_SAMPLING),
    "sampling_config.top_p_reset_ids": Refused(_SAMPLING),
    "sampling_config.top_p_decay": Refused(_SAMPLING, neutral=1),
    "sampling_config.seed": Plain.HONOURED,
    "sampling_config.temperature": Plain.HONOURED,
    "sampling_config.min_tokens": Plain.HONOURED,
    "sampling_config.beam_search_diversity_rate": Refused(_BEAMS, neutral=0),
    "sampling_config.repetition_penalty": Plain.HONOURED,
    "sampling_config.presence_penalty": Plain.HONOURED,
    "sampling_config.frequency_penalty": Plain.HONOURED,
    "sampling_config.prompt_ignore_length": Refused("penalties see the whole prompt", neutral=0),
    "sampling_config.length_penalty": Refused(_BEAMS),
    "sampling_config.early_stopping": Refused(_BEAMS),
    "sampling_config.no_repeat_ngram_size": Refused(_SAMPLING, neutral=0),
    "sampling_config.min_p": Plain.HONOURED,
    "sampling_config.beam_width_array": Refused(_BEAMS),
    "output_config": Plain.PARTS,
    "output_config.logprobs": Plain.HONOURED,
    "output_config.prompt_logprobs": Refused("log-probabilities are of generated tokens alone"),
    "output_config.return_context_logits": Refused(_LOGITS),
    "output_config.return_generation_logits": Refused(_LOGITS),
    "output_config.exclude_input_from_output": Plain.NEUTRAL,  # the input is never in the output
    "output_config.return_encoder_output": Refused(_LOGITS),
    "output_config.return_perf_metrics": Refused("timings are sent by mistralchat.v1.ChatService"),
    "max_tokens": Plain.HONOURED,
    "streaming": Plain.HONOURED,
    "guided_decoding": Plain.PARTS,
    "guided_decoding.guide_type": Plain.HONOURED,
    "guided_decoding.guide": Plain.HONOURED,
    "embedding_bias": Refused(_SAMPLING),
    "lora_config": Refused(_ONE_MODEL),
    "prompt_tuning_config": Refused(_ONE_MODEL),
    "multimodal_input": Refused("the model reads text alone"),
    "kv_cache_retention": Refused("the executor decides what its cache keeps"),
    "disaggregated_params": Refused("prefill and generation are not separated"),
    "lookahead_config": Refused("the executor decides how it decodes"),
    "cache_salt_id": Refused("the executor's cache has no salt"),
    "arrival_time": Plain.NEUTRAL,  # for the sender's own metrics
    "stop": Plain.HONOURED,
    "stop_token_ids": Plain.HONOURED,
    "ignore_eos": Refused("the model ends its answer; min_tokens holds the end back"),
    "bad": Plain.HONOURED,
    "bad_token_ids": Refused("bad words are strings: use bad"),
    "include_stop_token_in_output": Plain.HONOURED,
}


def refuse_unsupported(request: tl.GenerateRequest) -> None:
    """Raises UNIMPLEMENTED for the first field that no executor can honour."""
    for path, value in _asked(request, ""):
        match FIELDS[path]:
            case Refused(reason, neutral) if neutral is None or value != neutral:
                raise _refusal(path, reason)


def _asked(message: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The fields that are set, by path. Protobuf lists what differs from the default of its type."""
    descriptor: FieldDescriptor
    for descriptor, value in message.ListFields():
        path = prefix + descriptor.name
        if FIELDS[path] is Plain.PARTS:
            yield from _asked(value, path + ".")
        else:
            yield path, value


def _refusal(path: str, reason: str) -> CallError:
    return unsupported(path.rpartition(".")[2], reason)
