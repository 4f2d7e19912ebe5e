"""Events of a run while it computes: an event file that can be followed from another shell, TensorBoard and MLflow."""

from nas.events.event import Event
from nas.events.file import Tail, parse
from nas.events.log import SILENT, Log, clear, left_by_logs, logged
from nas.events.session import Phase, Session, Told
from nas.events.writers import LOGS, check_logs, known_logs

__all__ = [
    "LOGS",
    "SILENT",
    "Event",
    "Log",
    "Phase",
    "Session",
    "Tail",
    "Told",
    "check_logs",
    "clear",
    "known_logs",
    "left_by_logs",
    "logged",
    "parse",
]  # fmt: skip
