"""The token-level service that the SMG gateway speaks to: its protocol, over the same executor as Chat."""
