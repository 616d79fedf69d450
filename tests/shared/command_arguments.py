"""The arguments with which the commands do their work on a `TroubledSite`."""

from __future__ import annotations

from troubled_site import BAD, COMPLETED, FAILED, PENDING, QUEUE, TroubledSite


def arguments(site: TroubledSite) -> dict[str, list[str]]:
    """What a command needs to reach its real work."""
    made = site.root / "made"
    emergency = ["--reason", "a test", "--timeout", "0.5"]
    return {
        "api": ["--port", "0"],
        "dashboard": ["--port", "0"],
        "archive": [str(made / "archive.gz")],
        "backup": [str(made / "backup")],
        "cancel": [PENDING],
        "compare": [COMPLETED],
        "daemon": ["--once"],
        "fork": [COMPLETED, "image"],
        "history": [FAILED],
        "inspect": [str(site.root / "input" / f"{COMPLETED}_sb00.hdf5")],
        "lightcurve": ["S1"],
        "logs": [FAILED],
        "metrics": ["--write", str(made / "metrics.prom")],
        "monitor": ["--once"],
        "photometry": ["S1"],
        "reopen": [COMPLETED],
        "report": [str(made / "report.html")],
        "restore": [str(site.root / "backup"), "--force"],
        "retry": ["--all-failed"],
        "spawn": ["--calibrator", "3C286"],
        "synth": [str(made / "synth"), "--preset", "no-such"],
        "worker": ["--until-idle"],
        "alerts run": ["--once"],
        "batch create": ["pipeline", FAILED],
        "batch pause": [site.batch],
        "batch resume": [site.batch],
        "batch cancel": [site.batch],
        "deploy install": ["--dry-run"],
        "emergency stop": emergency,
        "emergency drain": emergency,
        "emergency clear-queue": [QUEUE, "--confirm", QUEUE],
        "emergency reset": ["--confirm", QUEUE, *emergency],
        "mosaic make": ["--night", "2025-01-15"],
        "mosaic plan": ["--night", "2025-01-15"],
        "publish retry": ["--all"],
        "quarantine release": [BAD],
        "queue pause": [QUEUE, "--reason", "a test"],
        "queue resume": [f"{QUEUE}-io"],
        "registry files": ["2025-01-15T00:00:00"],
        "reprocess start": ["--since", "2025-01-15"],
        "schedule add": ["new", "reprocess", "--at", "13:00"],
        "schedule remove": ["weekly"],
    }
