"""Runs in MLflow, journal first: a server that is down or dies costs a warning, never a run or an event."""

from compress.tracking.headline import is_headline, select_headline
from compress.tracking.run import Run
from compress.tracking.server import ServerCommand, ui
from compress.tracking.tracker import Tracker, database_uri

__all__ = ["Run", "ServerCommand", "Tracker", "database_uri", "is_headline", "select_headline", "ui"]
