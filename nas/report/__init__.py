"""Tables, plots and the page of a run."""

from nas.report.format import front_table, percent, si
from nas.report.page import searched
from nas.report.write import write_report, write_tables

__all__ = ["front_table", "percent", "searched", "si", "write_report", "write_tables"]
