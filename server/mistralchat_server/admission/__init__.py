"""Who may use the executor and when. Knows neither gRPC nor the executor."""
