"""The OpenVINO executor: any CPU, through OpenVINO GenAI's continuous batching."""
