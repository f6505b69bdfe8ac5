"""The data sets of the paper by name: `find("rte").read("dev", data_dir)` is a table whose columns the kinds know."""

from gpt1.datasets.dataset import HUB, DataSet, KnownTable, MissingSplit, Named
from gpt1.datasets.registry import find, known, names, parse
from gpt1.datasets.submission import submission, submission_files

__all__ = ["HUB", "DataSet", "KnownTable", "MissingSplit", "Named", "find", "known", "names", "parse"]
__all__ += ["submission", "submission_files"]
