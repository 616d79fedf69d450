"""Alerts: rules over the overview of a site, and messages that are delivered once."""

from absurd_contimg.operations.alerts.receivers import (
    DeliveryError,
    Receiver,
    deliver,
    make_receivers,
)
from absurd_contimg.operations.alerts.records import Notice, Rule
from absurd_contimg.operations.alerts.rules import all_rules, make_rules
from absurd_contimg.operations.alerts.watch import (
    RaisedAlert,
    count_alerts,
    look_once,
    read_alerts,
    watch_site,
)

__all__ = [
    "DeliveryError",
    "Notice",
    "RaisedAlert",
    "Receiver",
    "Rule",
    "all_rules",
    "count_alerts",
    "deliver",
    "look_once",
    "make_receivers",
    "make_rules",
    "read_alerts",
    "watch_site",
]
