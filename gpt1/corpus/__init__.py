"""Text in, token shards and training windows out."""
