"""The run folder: configuration, journal, and choosing from a front."""

from nas.study.asked import directed, named
from nas.study.choose import choose
from nas.study.config import (
    LOOP,
    OBJECT,
    RankingConfig,
    RunConfig,
    adjusted,
    configure,
    named_functions,
    parse_config,
    peek_config,
    read_config,
)
from nas.study.formats import FORMATS, check_same
from nas.study.journal import Journal, New, Trial, whole
from nas.study.lock import is_held
from nas.study.naming import run_folder
from nas.study.records import read_record
from nas.study.spaces import build_space, make_task, options_for
from nas.study.study import ALONE, SEARCH, Study, load_task

__all__ = [
    "ALONE", "FORMATS", "LOOP", "OBJECT", "SEARCH", "Journal", "New", "RankingConfig", "RunConfig", "Study",
    "Trial", "adjusted", "build_space", "check_same", "choose", "configure", "directed", "is_held", "load_task", "make_task",
    "named", "named_functions", "options_for", "parse_config", "peek_config", "read_config", "read_record",
    "run_folder", "whole",
]  # fmt: skip
