"""Conversion against silent errors of pyuvdata; the Measurement Set is read back.

Runs in the test process: pyuvdata and python-casacore only, no CASA.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from casacore.tables import table

from absurd_contimg.errors import DataQualityError, IncompleteGroupError, OutputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.products.output_warnings import output_warnings
from absurd_contimg.products.outputs import ConvertOutputs, MeasurementSet, to_json
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.measurement_set import divisor_up_to
from absurd_contimg.stages.convert import ConvertStage
from absurd_contimg.synthesis import Fault, FaultKind, SynthesisConfig, SynthesisResult, synthesize

Contexts = Callable[..., PipelineContext]
SMALL = {"n_antennas": 6, "n_integrations": 3, "science_groups": 0}


def convert(context: PipelineContext, workspace: Workspace) -> tuple[Path, MeasurementSet]:
    stage = ConvertStage()
    stage.validate(context)
    outputs = stage.execute(context, workspace)
    stage.validate_outputs(context, workspace, outputs)
    json.dumps(to_json(outputs), allow_nan=False)
    return workspace.product / outputs.measurement_set.path.name, outputs.measurement_set


def frequencies(ms: Path) -> np.ndarray:
    with table(f"{ms}/SPECTRAL_WINDOW", ack=False) as window:
        return np.asarray(window.getcell("CHAN_FREQ", 0))


def test_a_group_becomes_one_field_in_ascending_order(
    context_for: Contexts, workspace: Workspace
) -> None:
    """Left alone, pyuvdata writes a saw-tooth of channels and 24 disordered fields."""
    ms, described = convert(context_for(), workspace)
    axis = frequencies(ms)
    assert np.all(np.diff(axis) > 0)
    assert np.diff(axis) == pytest.approx(11.71875e6 / 2)
    assert axis[0] == pytest.approx(1311.25e6 + 11.71875e6 / 4)
    with table(f"{ms}/FIELD", ack=False) as fields:
        assert fields.nrows() == 1
        direction = np.degrees(fields.getcell("PHASE_DIR", 0)[0])
    assert direction[0] % 360 == pytest.approx(described.ra_deg)
    assert direction[1] == pytest.approx(described.dec_deg)
    with table(f"{ms}/ANTENNA", ack=False) as antennas:
        names = antennas.getcol("NAME")
    assert len(names) == described.n_antennas == 10
    assert all(name.startswith("DSA") for name in names)


def test_beam_centres_are_kept_and_are_not_the_sidereal_time(
    context_for: Contexts, workspace: Workspace
) -> None:
    """The meridian is apparent: in ICRS it lies a third of a degree away from the clock."""
    ms, described = convert(context_for(), workspace)
    centres = BeamCentres.read(workspace.product / "beam_centres.json")
    assert len(centres.mjd) == 6
    middle = (centres.ra_deg[0] + centres.ra_deg[-1]) / 2
    assert middle == pytest.approx(described.ra_deg, abs=1e-3)
    assert centres.dec_deg[0] != pytest.approx(16.0, abs=0.05)
    with table(str(ms), ack=False) as main:
        assert set(centres.indices(main.getcol("TIME") / 86400)) == set(range(6))


def test_four_missing_subbands_become_flagged_placeholders(
    context_for: Contexts, tiny: SynthesisResult, workspace: Workspace
) -> None:
    """The band has no hole and no invented data."""
    present = [f for f in tiny.groups[0].files if f.stem[-2:] not in {"00", "05", "06", "15"}]
    ms, described = convert(context_for(present), workspace)
    assert described.placeholder_subbands == (0, 5, 6, 15)
    assert np.diff(frequencies(ms)) == pytest.approx(11.71875e6 / 2)
    with table(str(ms), ack=False) as main:
        flags = main.getcol("FLAG").all(axis=(0, 2))
    # Ascending: sub-band 15 is lowest.
    by_subband = flags.reshape(16, 2).all(axis=1)[::-1]
    assert list(np.flatnonzero(by_subband)) == [0, 5, 6, 15]
    assert described.flagged_fraction == pytest.approx(0.25)


def test_averaging_gives_the_mean_of_ascending_channels(
    context_for: Contexts, tmp_path: Path
) -> None:
    """8 channels of 1.46 MHz become 2 of 5.9 when that is allowed, and their means agree."""
    made = synthesize(tmp_path / "in", SynthesisConfig.tiny(channels_per_subband=8, **SMALL))
    results = []
    for name, settings in (
        ("fine", {"averaging_max": 1}),
        ("coarse", {"averaging_max": 4, "averaged_width_max_hz": 6.0e6}),
    ):
        folders = Workspace(
            tmp_path / name, tmp_path / f"{name}.tmp", tmp_path / "log", tmp_path / "c"
        )
        folders.product.mkdir()
        ms, described = convert(
            context_for(list(made.groups[0].files), conversion=settings), folders
        )
        with table(str(ms), ack=False) as main:
            results.append((frequencies(ms), main.getcol("DATA"), described))
    (fine_hz, fine, _), (coarse_hz, coarse, described) = results
    assert len(coarse_hz) == 32
    assert described.channel_width_hz == pytest.approx(4 * 11.71875e6 / 8)
    assert coarse_hz == pytest.approx(fine_hz.reshape(32, 4).mean(axis=1))
    expected = fine.reshape(len(fine), 32, 4, 2).mean(axis=2)
    # Not equal: the correlator's centre moves, so averaging before rephasing smears a little.
    assert np.abs(coarse - expected).max() < 0.05
    assert np.abs(expected).max() > 9.0


@pytest.mark.parametrize(
    ("n", "most", "width", "limit", "factor"),
    [
        (48, 4, 244e3, 1e6, 4),
        (8, 4, 1.46e6, 1e6, 1),
        (6, 4, 100e3, 1e6, 3),
        (7, 4, 1e3, 1e6, 1),
        (48, 4, 400e3, 1e6, 2),
    ],
)
def test_averaging_takes_the_largest_divisor_within_the_limits(
    n: int, most: int, width: float, limit: float, factor: int
) -> None:
    assert divisor_up_to(n, most, width, limit) == factor


def test_autocorrelations_are_left_out(context_for: Contexts, workspace: Workspace) -> None:
    """The instrument records them; an imager would grid them."""
    ms, described = convert(context_for(), workspace)
    assert described.n_rows == 6 * 45
    with table(str(ms), ack=False) as main:
        assert np.all(main.getcol("ANTENNA1") != main.getcol("ANTENNA2"))


def faulty(tmp_path: Path, *faults: tuple[FaultKind, int]) -> list[Path]:
    config = SynthesisConfig.tiny(
        **SMALL, faults=tuple(Fault(kind=k, group=0, subband=s) for k, s in faults)
    )
    return list(synthesize(tmp_path / "in", config).groups[0].files)


def test_nan_visibilities_are_flagged(
    context_for: Contexts, workspace: Workspace, tmp_path: Path
) -> None:
    """pyuvdata would write them unflagged; the telescope's last file of a run ends with them."""
    files = faulty(tmp_path, (FaultKind.NAN, 9))
    _path, described = convert(context_for(files), workspace)
    assert 0 < described.flagged_fraction < 0.05


def test_data_that_are_all_flagged_are_refused(
    context_for: Contexts, workspace: Workspace, tmp_path: Path
) -> None:
    """Nothing can be made of them, and trying again will not help."""
    files = faulty(tmp_path, *((FaultKind.ALL_FLAGGED, s) for s in range(16)))
    with pytest.raises(DataQualityError, match="all visibilities of group"):
        convert(context_for(files), workspace)


def test_stuck_and_unwritten_subbands_count_as_missing(
    context_for: Contexts, workspace: Workspace, tmp_path: Path
) -> None:
    """They went into images: of noise 18 times as high, which hid the sources that were wrong."""
    files = faulty(tmp_path, (FaultKind.STUCK, 0), (FaultKind.ALL_FLAGGED, 3))
    leave_unwritten(next(f for f in files if f.stem.endswith("sb01")))
    present = [f for f in files if not f.stem.endswith("sb15")]
    ms, described = convert(context_for(present), workspace)
    assert described.placeholder_subbands == (0, 1, 3, 15)
    assert described.empty_subbands == (0, 1, 3)
    assert described.flagged_fraction == pytest.approx(0.25)
    with table(str(ms), ack=False) as main:
        flags = main.getcol("FLAG").all(axis=(0, 2)).reshape(16, 2).all(axis=1)[::-1]
    assert list(np.flatnonzero(flags)) == [0, 1, 3, 15]
    (missing, empty) = output_warnings(to_json(ConvertOutputs(described)))
    assert missing == "4 sub-bands missing"
    assert "without data" in empty
    assert "00, 01, 03" in empty


def test_too_many_stuck_subbands_are_refused_by_name(
    context_for: Contexts, workspace: Workspace, tmp_path: Path
) -> None:
    files = faulty(tmp_path, *((FaultKind.STUCK, s) for s in (1, 2, 4, 8, 9)))
    with pytest.raises(IncompleteGroupError, match=r"only 11 of 16 .*01, 02, 04, 08, 09"):
        convert(context_for(files), workspace)
    for path in files:
        leave_unwritten(path)
    with pytest.raises(IncompleteGroupError, match="only 0 of 16"):
        ConvertStage().validate(context_for(files))


def leave_unwritten(path: Path) -> None:
    """As by a writer that made its datasets and was given nothing: HDF5 reads a fill value."""
    with h5py.File(path, "r+") as file:
        shape = file["Data/visdata"].shape
        del file["Data/visdata"]
        file.create_dataset(
            "Data/visdata", shape, np.complex64, chunks=(45, *shape[1:]), fillvalue=1 + 0j
        )


def test_a_damaged_measurement_set_fails_the_post_conditions(
    context_for: Contexts, workspace: Workspace
) -> None:
    """Injected: channels in disorder, as pyuvdata would leave them."""
    context = context_for()
    ms, described = convert(context, workspace)
    with table(f"{ms}/SPECTRAL_WINDOW", ack=False, readonly=False) as window:
        axis = window.getcell("CHAN_FREQ", 0)
        window.putcell("CHAN_FREQ", 0, axis[::-1])
    with pytest.raises(OutputError, match="ascending order"):
        ConvertStage().validate_outputs(context, workspace, ConvertOutputs(described))
    shutil.rmtree(ms / "FIELD")
    with table(f"{ms}/SPECTRAL_WINDOW", ack=False, readonly=False) as window:
        window.putcell("CHAN_FREQ", 0, axis)
    with pytest.raises(RuntimeError, match="FIELD"):
        ConvertStage().validate_outputs(context, workspace, ConvertOutputs(described))
