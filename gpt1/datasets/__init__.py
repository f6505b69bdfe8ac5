"""The data sets of the paper by name: `find("rte").read("dev", data_dir)` is a table whose columns the kinds know."""

from gpt1.datasets.dataset import HUB, DataSet, DataSetSplit, KnownTable, MissingSplit
from gpt1.datasets.registry import data_set_names, find_data_set, parse_data_set, require_data_set
from gpt1.datasets.submission import plan_submission, write_submission

__all__ = [
    "HUB",
    "DataSet",
    "DataSetSplit",
    "KnownTable",
    "MissingSplit",
    "data_set_names",
    "find_data_set",
    "parse_data_set",
    "require_data_set",
]
__all__ += ["plan_submission", "write_submission"]
