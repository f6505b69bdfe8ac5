"""The data sets of the paper by name: `find_data_set("rte").read("dev", data_dir)` is a table for a kind of task."""

from gpt1.datasets.dataset import DataSet, DataSetSplit, KnownTable, MissingSplit
from gpt1.datasets.registry import data_set_names, find_data_set, parse_data_set, require_data_set
from gpt1.datasets.submission import plan_submission, write_submission

__all__ = [
    "DataSet",
    "DataSetSplit",
    "KnownTable",
    "MissingSplit",
    "data_set_names",
    "find_data_set",
    "parse_data_set",
    "plan_submission",
    "require_data_set",
    "write_submission",
]
