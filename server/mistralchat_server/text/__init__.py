"""Everything between a caller's words and token ids: templates, tokenizers, stop words, bad words."""
