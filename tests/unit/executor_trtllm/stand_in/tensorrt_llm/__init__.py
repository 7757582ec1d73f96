"""A stand-in for TensorRT-LLM's LLM API, for tests alone.

Written from the library's public sources: the same names and keyword arguments, an error for any
other, and what is known of the difference between 1.2 and 1.3. It proves that the executor speaks to
the library as the sources say, and nothing about the engine.

The environment sets what it plays: STAND_IN_VERSION, and in STAND_IN_IGNORES what it accepts and
ignores: `penalties`, `guided`, or fields of SamplingParams.
"""

import os

__version__ = os.environ.get("STAND_IN_VERSION", "1.2.1")

from .llm import LLM as LLM
from .sampling_params import SamplingParams as SamplingParams
