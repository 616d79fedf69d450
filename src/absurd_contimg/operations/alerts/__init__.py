"""Alerts: rules over the overview of a site, and messages that are delivered once."""
