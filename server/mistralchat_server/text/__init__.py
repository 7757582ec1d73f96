"""Everything between a caller's words and token ids: templates, tokenizers, stop words, bad words."""

import os

# transformers is used for chat templates alone and would tell every operator that PyTorch is missing.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
