"""Campaigns: days of telescope under faults, and their report."""
