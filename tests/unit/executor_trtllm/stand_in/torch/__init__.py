"""What the executor asks of PyTorch: which GPUs there are. The answers come from the environment."""

from . import cuda as cuda
