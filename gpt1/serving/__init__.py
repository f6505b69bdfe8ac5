"""Serving: an engine that many clients share, and an OpenAI-compatible server (extra `gpt1[serve]`)."""
