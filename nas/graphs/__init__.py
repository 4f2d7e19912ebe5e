"""Networks as plain data: a graph of known operators in JSON, which anybody can run without the code that made it."""

from nas.graphs.description import GRAPH, Description, parse_graph
from nas.graphs.network import GraphNetwork, build_graph
from nas.graphs.record import Indescribable, describe

__all__ = ["GRAPH", "Description", "GraphNetwork", "Indescribable", "build_graph", "describe", "parse_graph"]
