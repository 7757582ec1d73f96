"""The gRPC face of the server: services, the rules of a request, errors, health."""
