"""The groups in which transits are looked for, on both databases."""

from __future__ import annotations

from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.registry.transits import observed_groups

MJD = 60_700.25


def test_groups_come_from_the_registry(registry: Registry) -> None:
    """Closed groups whose time and declination are known; the others are left out."""
    rows = [
        ("g1", MJD, 16.0, "closed"),
        ("g2", MJD + 1.0, 16.0, "closed"),
        ("old", MJD - 9.0, 16.0, "closed"),
        ("unknown", None, None, "closed"),
        ("arriving", MJD, 16.0, "collecting"),
        ("rejected", MJD, 16.0, "rejected"),
    ]
    with registry.database.writing() as session:
        for group_id, mid_mjd, declination, state in rows:
            session.add(
                ObservationGroup(
                    group_id=group_id,
                    status=GroupStatus.DISCOVERED.value,
                    mid_mjd=mid_mjd,
                    declination_deg=declination,
                    ingest_state=state,
                    n_subbands=15,
                )
            )
    groups = observed_groups(registry.database, MJD - 1.0)
    assert [each.group_id for each in groups] == ["g1", "g2"]
    assert (groups[0].n_subbands, groups[0].has_measurement_set) == (15, False)
