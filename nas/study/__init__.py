"""The run folder: configuration, journal, and choosing from a front."""

from nas.study.asked import directed, named
from nas.study.choose import choose
from nas.study.config import (
    LOOP,
    OBJECT,
    RunConfig,
    adjusted,
    named_functions,
    parse_config,
    peek_config,
    read_config,
)
from nas.study.defaults import configure
from nas.study.formats import FORMATS, check_same
from nas.study.journal import New, Trial, whole
from nas.study.lock import is_held
from nas.study.naming import run_folder, study_name
from nas.study.parts import RankingConfig
from nas.study.records import holds, journal_of, read_record, recorded_config, write_recorded
from nas.study.shared import SharedStudy
from nas.study.spaces import build_space, make_task, options_for
from nas.study.storage import open_storage
from nas.study.study import ALONE, SEARCH, Study, load_task
from nas.study.worth import WORTHS, WorthConfig

__all__ = [
    "ALONE", "FORMATS", "LOOP", "OBJECT", "SEARCH", "WORTHS", "New", "RankingConfig", "RunConfig", "SharedStudy", "Study", "Trial",
    "WorthConfig", "adjusted", "build_space", "check_same", "choose", "configure", "directed", "holds", "is_held", "journal_of",
    "load_task", "make_task", "named", "named_functions", "open_storage", "options_for", "parse_config", "peek_config",
    "read_config", "read_record", "recorded_config", "run_folder", "study_name", "whole", "write_recorded",
]  # fmt: skip
