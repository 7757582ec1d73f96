"""Who may connect and call: certificates, keys, tokens, and what each identity may do.

This room knows no services and no calls; `rpc/authentication.py` asks it.
"""
