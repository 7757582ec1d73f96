#!/usr/bin/env bash
# Serves over gRPC to this container and, through SMG, over HTTP to the outside. Ends when either does, so
# that the container is started again. Arguments go to `mistralchat serve`; without any it is the recipe
# of one A100.
set -uo pipefail

[[ $# -gt 0 ]] || set -- --engine a100-bf16
secret=/secrets/hf_access_token
if [[ -r $secret ]]; then HF_TOKEN=$(<"$secret") && export HF_TOKEN; fi
worker=127.0.0.1:${GRPC_PORT:-50051}

mistralchat serve --listen "$worker" "$@" &
mistralchat gateway --worker "$worker" --listen "0.0.0.0:${HTTP_PORT:-8000}" &
stopping=
trap 'stopping=yes; kill $(jobs -p) 2>/dev/null' TERM INT
wait -n
code=$?
if [[ -n $stopping ]]; then
  wait
  exit 0
fi
# What is left serves nobody: the second signal ends it without draining.
kill $(jobs -p) 2>/dev/null
sleep 1
kill $(jobs -p) 2>/dev/null
wait
exit "$code"
