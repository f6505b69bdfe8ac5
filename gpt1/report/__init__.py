"""The page that every run leaves behind, and the blocks that other pages are built from. Reads files, knows no verb."""

from __future__ import annotations

from gpt1.report.page import Cell, Mistake, Page
from gpt1.report.sections import write_report

__all__ = ["Cell", "Mistake", "Page", "write_report"]
