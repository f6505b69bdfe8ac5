"""Text generation: decoding, sampling, and models prepared for inference."""
