# Two images of one server, without weights: those are downloaded into the volume.
#   docker build --target gpu -t mistralchat:gpu .     docker build --target cpu -t mistralchat:cpu .
# The steps of `cpu` have been run; those of `gpu` have not, since its base could not be had.

FROM python:3.11.14-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md ./
COPY engines engines
COPY client/python client/python
COPY server server
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .


FROM python:3.11.14-slim-bookworm AS cpu
LABEL org.opencontainers.image.title="mistralchat (CPU)" \
      org.opencontainers.image.description="Mistral 7B Instruct chat over gRPC, on OpenVINO" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11.14-slim-bookworm"
RUN groupadd --gid 10001 mistralchat \
    && useradd --create-home --uid 10001 --gid 10001 mistralchat \
    && install --directory --owner mistralchat --group mistralchat /var/cache/mistralchat
# Before the server's own code, which changes more often.
COPY deploy/requirements/cpu.txt /tmp/requirements.txt
RUN python -m pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/requirements.txt
COPY --from=wheel /wheels /tmp/wheels
RUN python -m pip install --no-cache-dir --no-deps /tmp/wheels/*.whl \
    && mistralchat engines check --all
# A container is reached through what its host publishes: whoever runs it decides on TLS and credentials.
ENV MISTRALCHAT_LISTEN=0.0.0.0:50051 \
    MISTRALCHAT_INSECURE_LISTEN=true \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/cache
USER 10001:10001
VOLUME /var/cache/mistralchat
EXPOSE 50051
# A large model takes minutes to load, and is not unhealthy meanwhile.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m --retries=3 \
    CMD ["python", "-m", "mistralchat_server.healthcheck"]
# Stopping waits for open calls, 30 s by default: give `docker stop` more with --time 40.
ENTRYPOINT ["mistralchat"]
CMD ["serve"]


FROM nvcr.io/nvidia/tensorrt-llm/release:1.2.1 AS gpu
LABEL org.opencontainers.image.title="mistralchat (GPU)" \
      org.opencontainers.image.description="Mistral 7B Instruct chat over gRPC, on TensorRT-LLM" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tensorrt-llm/release:1.2.1"
RUN groupadd --gid 10001 mistralchat \
    && useradd --create-home --uid 10001 --gid 10001 mistralchat \
    && install --directory --owner mistralchat --group mistralchat /var/cache/mistralchat
# Beside what the base has, and without changing any of that.
COPY deploy/requirements/gpu.txt /tmp/requirements.txt
RUN python3 -m pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/requirements.txt
COPY --from=wheel /wheels /tmp/wheels
# The check imports what the server needs: a base that lacks some of it fails here and not in production.
RUN python3 -m pip install --no-cache-dir --no-deps /tmp/wheels/*.whl \
    && mistralchat engines check --all \
    && python3 -c "import mistralchat_server.app"
# A container is reached through what its host publishes: whoever runs it decides on TLS and credentials.
ENV MISTRALCHAT_LISTEN=0.0.0.0:50051 \
    MISTRALCHAT_INSECURE_LISTEN=true \
    MISTRALCHAT_EXECUTOR=trtllm \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/cache
USER 10001:10001
VOLUME /var/cache/mistralchat
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m --retries=3 \
    CMD ["python3", "-m", "mistralchat_server.healthcheck"]
# Not the base's own entrypoint: signals are to reach the server, and nothing before it.
ENTRYPOINT ["mistralchat"]
CMD ["serve"]
