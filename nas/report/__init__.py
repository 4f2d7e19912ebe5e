"""Tables, plots and the pages of a run and of a pruning."""

from nas.report.beside import write_controls
from nas.report.card import CARD, model_card
from nas.report.format import front_table, measured, milliseconds, percent, repaired, si
from nas.report.page import searched, title
from nas.report.prune_page import prune_page, shows
from nas.report.write import write_report, write_tables

__all__ = [
    "CARD", "front_table", "measured", "milliseconds", "model_card", "percent", "prune_page", "repaired", "searched", "shows", "si",
    "title", "write_controls", "write_report", "write_tables",
]  # fmt: skip
