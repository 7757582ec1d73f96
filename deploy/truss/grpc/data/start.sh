#!/usr/bin/env bash
# Serves over gRPC. Arguments go to `mistralchat serve`; without any it is the recipe of one A100.
set -euo pipefail

[[ $# -gt 0 ]] || set -- --engine a100-bf16
secret=/secrets/hf_access_token
if [[ -r $secret ]]; then HF_TOKEN=$(<"$secret") && export HF_TOKEN; fi

# Baseten stands before the container, with TLS and API keys.
exec mistralchat serve --listen "0.0.0.0:${GRPC_PORT:-50051}" --insecure-listen "$@"
