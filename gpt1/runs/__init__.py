"""Run folders and their settings."""
