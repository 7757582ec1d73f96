"""The names that the executor imports from here."""

from .errors import RequestError as RequestError
from .llm import CudaGraphConfig as CudaGraphConfig
from .llm import KvCacheConfig as KvCacheConfig
from .sampling_params import GuidedDecodingParams as GuidedDecodingParams
