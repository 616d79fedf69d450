"""What is accepted of a raw file, what is refused, and that each refusal names its reason."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from search_extent import examples

from absurd_contimg.config import ConversionConfig, SiteConfig
from absurd_contimg.errors import CorruptInputError, IncompleteGroupError, InputError
from absurd_contimg.science.raw_baselines import expected_uvw
from absurd_contimg.science.raw_checks import check_header
from absurd_contimg.science.raw_file import read_raw_header, read_visibilities
from absurd_contimg.science.raw_group import read_raw_group

sys.path.append(str(Path(__file__).parents[1] / "shared"))
from raw_files import N_ANTENNAS, N_CHANNELS, write_file, write_group

Change = Callable[[h5py.File], None]

NUMBERS = (
    *("latitude", "longitude", "altitude", "time_array", "integration_time", "freq_array"),
    *("channel_width", "antenna_numbers", "antenna_positions", "ant_1_array", "ant_2_array"),
    *("uvw_array", "polarization_array", "phase_center_app_dec"),
    *("extra_keywords/phase_center_dec", "extra_keywords/ha_phase_center"),
)
DECLINATIONS = ("phase_center_app_dec", "extra_keywords/phase_center_dec")
REQUIRED = tuple(key for key in (*NUMBERS, "antenna_names") if "phase_center" not in key)


def replace(key: str, change: Callable[[Any], Any]) -> Change:
    """A change of one value of the header."""

    def apply(file: h5py.File) -> None:
        full = key if key.startswith("Data/") else f"Header/{key}"
        value = change(file[full][()])
        del file[full]
        file[full] = value

    return apply


def remove(key: str) -> Change:
    """A header without this key."""
    return lambda file: file.__delitem__(key if key.startswith("Data/") else f"Header/{key}")


def put(key: str, value: Any) -> Change:
    """One more key in the header."""
    return lambda file: file["Header"].__setitem__(key, value)


def together(*changes: Change) -> Change:
    """All of these changes, one after the other."""

    def apply(file: h5py.File) -> None:
        for change in changes:
            change(file)

    return apply


def with_baselines(file: h5py.File) -> None:
    """Baselines that fit the header as it is now."""
    file.flush()
    uvw = expected_uvw(read_raw_header(Path(file.filename)))
    file["Header/uvw_array"][...] = uvw


def first_becomes(value: float) -> Callable[[Any], Any]:
    """The first number of an array, or the only one, becomes this one."""

    def apply(old: Any) -> Any:
        numbers = np.array(old, np.float64)
        numbers.flat[0] = value
        return numbers

    return apply


def rows(change: Callable[[Any], Any], *places: int) -> Callable[[Any], Any]:
    """An array with some rows changed."""

    def apply(old: Any) -> Any:
        new = np.array(old)
        for place in places:
            new[place] = change(new[place])
        return new

    return apply


def exchanged(old: Any) -> Any:
    """Positions with two antennas exchanged."""
    new = np.array(old)
    new[[1, 3]] = new[[3, 1]]
    return new


def retype(key: str, dtype: Any) -> Change:
    """A change of the type in which a value is stored."""

    def apply(file: h5py.File) -> None:
        full = key if key.startswith("Data/") else f"Header/{key}"
        values = np.asarray(file[full][()])
        values = values.real if dtype in ("f4", "i4") else values
        values = values.astype(str if dtype == h5py.string_dtype() else dtype)
        del file[full]
        file.create_dataset(
            full, data=values.astype(object) if values.dtype.kind == "U" else values, dtype=dtype
        )

    return apply


def compound(*fields: str) -> Change:
    """Visibilities as fields of whole numbers; a real part is in a field r, re, or the first."""

    def apply(file: h5py.File) -> None:
        values = file["Data/visdata"][()]
        parts = np.zeros(values.shape, [(field, "<i4") for field in fields])
        parts[next((f for f in ("r", "re") if f in fields), fields[0])] = values.real
        del file["Data/visdata"]
        file["Data/visdata"] = parts

    return apply


def link(name: str, target: Any) -> Change:
    """A link where a value or a group was."""

    def apply(file: h5py.File) -> None:
        file.pop(name, None)
        file[name] = target

    return apply


def other_object(name: str, is_group: bool) -> Change:
    """A group where a value was, or a value where a group was."""

    def apply(file: h5py.File) -> None:
        del file[name]
        if is_group:
            file.create_group(name)
        else:
            file[name] = 1.0

    return apply


def virtual_latitude(file: h5py.File) -> None:
    """A value that HDF5 would take from another file, or else from its fill value."""
    layout = h5py.VirtualLayout((1,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (1,))
    del file["Header/latitude"]
    file["Header"].create_virtual_dataset("latitude", layout, fillvalue=37.2314)


def unknown_filter(file: h5py.File) -> None:
    """Visibilities compressed by bitshuffle, which is no part of HDF5."""
    shape = file["Data/visdata"].shape
    del file["Data/visdata"]
    dataset = file["Data"].create_dataset(
        "visdata", shape, "c8", chunks=shape, compression=32008, allow_unknown_filter=True
    )
    dataset.id.write_direct_chunk((0, 0, 0, 0), b"x" * 100)


DATA_OF_ANOTHER_TYPE = (
    *(("visdata", dtype) for dtype in ("f4", "i4", "S4", "?")),
    *(("flags", dtype) for dtype in ("f4", "S3")),
    *(("nsamples", dtype) for dtype in ("c8", "S3")),
)
OVERLAPPING = np.dtype({"names": ["r", "i"], "formats": ["<f8", "<f4"], "offsets": [0, 4]})
ANTENNAS_OF_ROWS = ("ant_1_array", "ant_2_array")

REFUSED: dict[str, tuple[Change, str]] = {
    **{
        f"{key} {name}": (replace(key, first_becomes(value)), key.rpartition("/")[2])
        for key in NUMBERS
        for name, value in {"NaN": np.nan, "infinite": np.inf}.items()
    },
    **{
        f"{key} is text": (replace(key, lambda _: np.bytes_("much")), key.rpartition("/")[2])
        for key in NUMBERS
    },
    **{f"{key} missing": (remove(key), key) for key in REQUIRED},
    **{
        f"{key} too short": (replace(key, lambda old: old[:-1]), key)
        for key in ("ant_1_array", "ant_2_array", "uvw_array", "antenna_names")
    },
    "uvw of the opposite sign": (replace("uvw_array", lambda x: -x), "opposite sign"),
    "uvw in wavelengths": (replace("uvw_array", lambda x: x * 4.68), "wavelengths"),
    "uvw in kilometres": (replace("uvw_array", lambda x: x / 1e3), "times the baselines"),
    "uvw of another declination": (replace("uvw_array", lambda x: x[:, [0, 2, 1]]), "uvw_array"),
    "two antennas exchanged": (replace("antenna_positions", exchanged), "antennas 2 and 4"),
    "an antenna 5 m off": (
        replace("antenna_positions", rows(lambda x: x + np.array([5.0, 0, 0]), 2)),
        "all of them of antenna 3",
    ),
    "positions mirrored": (replace("antenna_positions", lambda x: -x), "opposite sign"),
    "positions from the Earth's centre": (
        replace("antenna_positions", lambda x: x + np.array([-2.4e6, -4.4e6, 3.8e6])),
        "centre of the Earth",
    ),
    "two antennas in one place": (
        replace("antenna_positions", rows(lambda _: np.zeros(3), 0, 1)),
        "0.00 m apart",
    ),
    "east for west": (replace("longitude", lambda x: -x), "east and west"),
    "latitude for longitude": (
        together(replace("latitude", lambda _: -118.2817), replace("longitude", lambda _: 37.2314)),
        "exchanged",
    ),
    "place in radians": (
        together(replace("latitude", np.radians), replace("longitude", np.radians)),
        "radians",
    ),
    "place never set": (
        together(replace("latitude", lambda _: 0.0), replace("longitude", lambda _: 0.0)),
        "never set",
    ),
    "altitude zero": (replace("altitude", lambda _: 0.0), "altitude"),
    "declination in degrees": (replace("phase_center_app_dec", lambda _: 16.0), "degrees"),
    "declinations that differ": (replace("phase_center_app_dec", lambda _: 0.3), "17.1887"),
    "declination that never rises": (
        lambda f: (
            [
                replace(k, lambda _: -1.2)(f)
                for k in ("phase_center_app_dec", "extra_keywords/phase_center_dec")
            ]
            and None
        ),
        "never rises",
    ),
    "no declination": (
        lambda f: (
            [remove(k)(f) for k in ("phase_center_app_dec", "extra_keywords/phase_center_dec")]
            and None
        ),
        "declination",
    ),
    "another hour angle": (
        replace("extra_keywords/ha_phase_center", lambda _: 0.1),
        "ha_phase_center",
    ),
    "unprojected": (replace("phase_type", lambda _: np.bytes_("unprojected")), "unprojected"),
    "an unknown phase type": (replace("phase_type", lambda _: np.bytes_("lunar")), "lunar"),
    "Modified Julian Days": (replace("time_array", lambda x: x - 2400000.5), "Modified"),
    "seconds of 1970": (replace("time_array", lambda _: np.full(45, 1.7e9)), "time_array"),
    "times of one integration apart": (
        replace("time_array", rows(lambda x: x + 2.0 / 86400.0, 4)),
        "within one integration",
    ),
    "a gap between integrations": (
        replace("time_array", lambda x: np.where(x == x.max(), x + 5.0 / 86400.0, x)),
        "integration_time",
    ),
    "another integration time": (replace("integration_time", lambda x: x * 1.1), "s apart"),
    "integration time zero": (replace("integration_time", lambda x: x * 0), "integration_time"),
    "lengths that differ": (
        replace("integration_time", rows(lambda x: x * 2, 3)),
        "integration_time",
    ),
    "megahertz": (replace("freq_array", lambda x: x / 1e6), "perhaps MHz"),
    "kilohertz": (replace("freq_array", lambda x: x / 1e3), "perhaps kHz"),
    "channels that repeat": (
        replace("freq_array", lambda x: x[..., [0, 0, 2, 3]]),
        "repeats channels",
    ),
    "channels out of order": (
        replace("freq_array", lambda x: x[..., [0, 2, 1, 3]]),
        "changes direction",
    ),
    "width in kilohertz": (replace("channel_width", lambda x: x / 1e3), "channel_width"),
    "width zero": (replace("channel_width", lambda _: 0.0), "channel_width"),
    "a channel left out": (
        replace("freq_array", lambda x: x[..., [0, 1, 2, 3]] - [[0, 0, 0, 3e6]]),
        "channel_width",
    ),
    "one hand twice": (replace("polarization_array", lambda _: np.array([-5, -5])), "twice"),
    "Stokes": (replace("polarization_array", lambda _: np.array([1, 2])), "I, Q"),
    "circular": (replace("polarization_array", lambda _: np.array([-1, -2])), "RR, LL"),
    "one hand and a cross hand": (
        replace("polarization_array", lambda _: np.array([-5, -7])),
        "total intensity",
    ),
    "a baseline twice": (
        replace("ant_2_array", rows(lambda x: x - 1, 1)),
        "twice in one integration",
    ),
    "an antenna that is not there": (
        replace("ant_2_array", rows(lambda _: 77, 1)),
        "antenna 77",
    ),
    "numbers that are no whole ones": (
        replace("ant_1_array", lambda x: x + 0.5),
        "no whole numbers",
    ),
    "a number twice": (
        replace("antenna_numbers", lambda _: np.array([0, 1, 2, 2, 4])),
        "antenna",
    ),
    "a name twice": (
        replace("antenna_names", lambda x: x[[0, 1, 2, 3, 3]]),
        "antenna_names",
    ),
    "counts that lie": (replace("Nblts", lambda _: 7), "Nblts"),
    "no visibilities": (remove("Data/visdata"), "visdata"),
    "visibilities of another shape": (
        replace("Data/visdata", lambda x: x[:, :, :2]),
        "visdata",
    ),
    "samples of another shape": (replace("Data/nsamples", lambda x: x[1:]), "nsamples"),
    "sidereal times missing rows": (
        put("lst_array", np.zeros(3)),
        "lst_array",
    ),
    "an external link": (
        together(remove("latitude"), put("latitude", h5py.ExternalLink("x.h5", "/y"))),
        "is a link to",
    ),
    "an endless header": (
        together(
            remove("latitude"),
            lambda file: file["Header"].create_dataset("latitude", (10**9,), "f8"),
        ),
        "claims",
    ),
    **{
        f"{key} of type {dtype}": (retype(key, dtype), named)
        for key, dtype, named in (
            ("time_array", "f4", "less than 8 bytes"),
            ("antenna_names", "f8", "antenna_names"),
            ("latitude", "c16", "numbers belong"),
            ("polarization_array", "u1", "251, 250"),
            *((f"Data/{name}", dtype, f"Data/{name}") for name, dtype in DATA_OF_ANOTHER_TYPE),
        )
    },
    **{
        f"visibilities with fields {', '.join(fields)}": (compound(*fields), "complex numbers")
        for fields in (("x", "y"), ("amplitude", "phase"), ("r", "i", "w"))
    },
    **{
        f"{name} is a link to nowhere": (link(name, h5py.SoftLink("/nowhere")), name)
        for name in ("Header", "Header/latitude", "Data/visdata", "Data/flags", "Header/lst_array")
    },
    **{
        f"{name} is a {'group' if is_group else 'value'}": (other_object(name, is_group), name)
        for name, is_group in (
            ("Header", False),
            ("Header/extra_keywords", False),
            ("Data", False),
            ("Data/visdata", True),
            ("Data/flags", True),
            ("Header/latitude", True),
        )
    },
    **{
        f"{key} without a value": (
            together(remove(key), lambda f, k=key: f["Header"].create_dataset(k, dtype="f8")),
            f"{key} is empty",
        )
        for key in ("latitude", "time_array", "antenna_names", "phase_type")
    },
    **{f"Nblts is {x}": (replace("Nblts", lambda _, x=x: x), "Nblts") for x in (np.nan, np.inf)},
    "extra keywords in another file": (
        link("Header/extra_keywords", h5py.ExternalLink("x.h5", "/y")),
        "extra_keywords is a link to 'x.h5/y'",
    ),
    "a virtual value": (virtual_latitude, "in another file"),
    "an unknown filter": (unknown_filter, "filter 32008"),
    "visibilities with fields that overlap": (
        replace("Data/visdata", lambda x: np.zeros(x.shape, OVERLAPPING)),
        "complex numbers",
    ),
    "no name": (replace("antenna_names", lambda x: np.array([b"", *x[1:]])), "no name"),
    "a name of no text": (
        replace("antenna_names", lambda x: np.array([b"\xff", *x[1:]])),
        "no name",
    ),
    "one station in two ways": (
        replace("antenna_names", lambda x: np.array([b"1", b"DSA-1", *x[2:]])),
        "'1' and 'DSA-1'",
    ),
    "declinations of rows that differ": (
        replace("phase_center_app_dec", lambda x: np.linspace(x, x + 0.02, 45)),
        "goes from",
    ),
    "autocorrelations alone": (
        together(*(replace(f"ant_{n}_array", lambda x: x * 0) for n in (1, 2))),
        "no baseline between",
    ),
    "integrations in milliseconds": (replace("integration_time", lambda x: x * 1e3), "120 s"),
    "sidereal times in hours": (put("lst_array", np.full(45, 23.5)), "from it"),
    "baselines turned about the line of sight": (
        replace("uvw_array", lambda x: x @ [[1, 1e-3, 0], [-1e-3, 1, 0], [0, 0, 1]]),
        "uvw_array says",
    ),
}

ACCEPTED: dict[str, Change] = {
    "unchanged": lambda _file: None,
    "negative channel width": replace("channel_width", lambda x: -x),
    "widths for each channel": replace("channel_width", lambda x: np.full(N_CHANNELS, x)),
    "negative widths for each": replace("channel_width", lambda x: np.full(N_CHANNELS, -x)),
    "longitude beyond 180": replace("longitude", lambda x: x + 360.0),
    "times in the last bit": replace("time_array", lambda x: np.nextafter(x, 3e6)),
    "jitter of a millisecond": replace(
        "time_array", lambda x: x + np.linspace(-1e-8, 1e-8, len(x))
    ),
    "one integration time": replace("integration_time", lambda x: x[0]),
    "no flags": remove("Data/flags"),
    "no samples array": remove("Data/nsamples"),
    "three axes": lambda f: (
        [replace(f"Data/{name}", lambda x: x[:, 0])(f) for name in ("visdata", "flags", "nsamples")]
        and None
    ),
    "one axis of frequencies": replace("freq_array", lambda x: x[0]),
    "no hour angle": remove("extra_keywords/ha_phase_center"),
    "one declination": remove("phase_center_app_dec"),
    "names with a prefix": replace(
        "antenna_names", lambda x: np.array([b"DSA-" + name for name in x])
    ),
    "rows in another order": lambda f: (
        [
            replace(key, lambda x: x[::-1])(f)
            for key in ("time_array", "ant_1_array", "ant_2_array", "uvw_array")
        ]
        and None
    ),
    "ascending channels": replace("freq_array", lambda x: x[..., ::-1]),
    "big-endian numbers": together(
        *(retype(key, ">f8") for key in ("latitude", "time_array", "freq_array")),
        retype("Data/visdata", ">c8"),
    ),
    "names of variable length": retype("antenna_names", h5py.string_dtype()),
    "names that are numbers": retype("antenna_names", "i4"),
    "integer visibilities": compound("r", "i"),
    "imaginary part first": compound("im", "re"),
    "samples that are whole numbers": retype("Data/nsamples", "i1"),
    "phase type in an array, in capitals": replace("phase_type", lambda _: np.array([b"DRIFT"])),
    "the place in arrays": together(
        *(replace(key, lambda x: np.array([[x]])) for key in ("latitude", "longitude", "altitude"))
    ),
    "numbers with gaps": together(
        *(replace(k, lambda x: x * 2**40 - 7) for k in ("antenna_numbers", *ANTENNAS_OF_ROWS))
    ),
    "an antenna without data and place": together(
        replace("antenna_names", lambda x: np.append(x, b"9")),
        replace("antenna_numbers", lambda x: np.append(x, 8)),
        replace("antenna_positions", lambda x: np.vstack([x, [np.nan] * 3])),
        replace("Nants_telescope", lambda n: n + 1),
    ),
    "baselines in the frame of 2000": replace(
        "uvw_array", lambda x: x @ [[1, -3e-4, 0], [3e-4, 1, 0], [0, 0, 1]]
    ),
}


def changed(folder: Path, *changes: Change) -> Path:
    """A file with these changes."""
    path = write_file(folder)
    with h5py.File(path, "r+") as file:
        for change in changes:
            change(file)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_deviation_is_refused_by_file_key_and_remedy(tmp_path: Path, name: str) -> None:
    change, named = REFUSED[name]
    path = changed(tmp_path, change)
    with pytest.raises(InputError) as caught:
        check_header(read_raw_header(path), SiteConfig())
    assert path.name in str(caught.value)
    assert named in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_the_telescope_may_send_is_accepted(tmp_path: Path, name: str) -> None:
    header = read_raw_header(changed(tmp_path, ACCEPTED[name]))
    check_header(header, SiteConfig())
    data, flags, _samples = read_visibilities(header, (-5, -6))
    assert data.shape == flags.shape == header.shape
    assert not flags.any()


def test_there_are_180_deviations() -> None:
    assert len(REFUSED) + len(ACCEPTED) >= 180


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.sampled_from(sorted(REFUSED)), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(sorted(ACCEPTED)), max_size=3, unique=True),
)
def test_deviations_together_are_refused_by_name_or_read(
    tmp_path_factory: pytest.TempPathFactory, refused: list[str], accepted: list[str]
) -> None:
    """Never an error of another kind, and one deviation is refused whatever else is accepted.

    Two deviations can cancel each other, such as positions and baselines both of the other sign.
    """
    path = write_file(tmp_path_factory.mktemp("file"))
    with h5py.File(path, "r+") as file:
        try:
            together(*(ACCEPTED[name] for name in accepted))(file)
            together(*(REFUSED[name][0] for name in refused))(file)
        except (KeyError, IndexError, ValueError, TypeError, OSError):
            reject()  # an earlier change took away what a later one changes, or is in its place
    refusal = None
    try:
        check_header(read_raw_header(path), SiteConfig())
    except InputError as error:
        refusal = str(error)
    assert len(refused) > 1 if refusal is None else path.name in refusal


@pytest.mark.parametrize(
    "mark",
    [
        *(f"{count} samples" for count in ("0", "-1", "inf", "3e38", "1e-44")),
        *("NaN", "infinite", "3e38", "zero", "flag"),
    ],
)
def test_missing_data_are_flagged_one_by_one(tmp_path: Path, mark: str) -> None:
    def spoil(file: h5py.File) -> None:
        if mark.endswith("samples"):
            file["Data/nsamples"][3, 0, 1, 0] = float(mark.removesuffix(" samples"))
        elif mark == "flag":
            file["Data/flags"][3, 0, 1, 0] = True
        else:
            value = {"NaN": np.nan, "infinite": np.inf, "zero": 0.0, "3e38": 3e38}[mark]
            file["Data/visdata"][3, 0, 1, 0] = value

    header = read_raw_header(changed(tmp_path, spoil))
    data, flags, samples = read_visibilities(header, (-5, -6))
    assert flags.sum() == 1
    assert flags[3, 1, 0]
    assert data[3, 1, 0] == 0
    assert samples[3, 1, 0] == 0


def test_of_four_products_the_two_hands_are_read(tmp_path: Path) -> None:
    def widen(file: h5py.File) -> None:
        for name in ("visdata", "flags", "nsamples"):
            replace(f"Data/{name}", lambda x: x[..., [0, 0, 0, 1]])(file)
        file["Data/visdata"][..., 1:3] = 99.0
        file["Data/visdata"][..., 3] = 7.0
        replace("polarization_array", lambda _: np.array([-5, -7, -8, -6]))(file)
        replace("Npols", lambda _: 4)(file)

    header = read_raw_header(changed(tmp_path, widen))
    check_header(header, SiteConfig())
    data, _flags, _samples = read_visibilities(header, (-5, -6))
    assert np.unique(data[..., 0]).tolist() == [2.0]
    assert np.unique(data[..., 1]).tolist() == [7.0]


def without_baseline(first: int, second: int) -> Change:
    """A file that lacks one baseline in all of its integrations."""

    def apply(file: h5py.File) -> None:
        header = file["Header"]
        is_kept = (header["ant_1_array"][()] != first) | (header["ant_2_array"][()] != second)
        for key in ("time_array", "integration_time", "uvw_array", *ANTENNAS_OF_ROWS):
            replace(key, lambda x: x[is_kept])(file)
        for name in ("visdata", "flags", "nsamples"):
            replace(f"Data/{name}", lambda x: x[is_kept])(file)
        replace("Nblts", lambda _: int(is_kept.sum()))(file)

    return apply


ODD: dict[str, tuple[Change, str]] = {
    "an integration later": (replace("time_array", lambda x: x + 1.5e-4), "time_array"),
    "another declination": (
        together(*(replace(key, lambda _: 0.2795) for key in DECLINATIONS), with_baselines),
        "declination",
    ),
    "another place": (replace("latitude", lambda x: x + 0.01), "latitude"),
    "another name": (
        replace("antenna_names", lambda x: np.array([b"9", *x[1:]])),
        "antenna_names",
    ),
    "another sub-band": (replace("freq_array", lambda x: x - 11.71875e6), "highest channel"),
    "half a channel": (replace("freq_array", lambda x: x + 1.46e6), "highest channel"),
    "another baseline": (without_baseline(0, 1), "14 baselines, but in 4 of 5"),
    "another day": (replace("time_array", lambda x: x + 1.0), "2025-01-15T23:46:42.922"),
}
SMALL_GROUP = ConversionConfig(subbands_min=5)


@pytest.mark.parametrize("name", ODD)
def test_the_odd_file_of_a_group_is_named(tmp_path: Path, name: str) -> None:
    paths = write_group(tmp_path, 5)
    change, named = ODD[name]
    with h5py.File(paths[3], "r+") as file:
        change(file)
    with pytest.raises(CorruptInputError) as caught:
        read_raw_group(paths, SMALL_GROUP, SiteConfig())
    assert str(caught.value).startswith(str(paths[3]))
    assert named in str(caught.value)


def test_names_of_a_wrong_clock_do_not_matter_when_the_data_agree(tmp_path: Path) -> None:
    paths = write_group(tmp_path, 5)
    late = [path.rename(path.with_name(f"2025-01-15T07{path.name[13:]}")) for path in paths]
    assert len(read_raw_group(late, SMALL_GROUP, SiteConfig()).times_jd) == 3


def test_a_file_apart_from_its_group_is_named_with_the_time_of_its_data(tmp_path: Path) -> None:
    """Its name puts it into a group of its own, which lacks the others."""
    path = write_file(tmp_path)
    path = path.rename(path.with_name("2025-01-15T07:46:00_sb00.hdf5"))
    with pytest.raises(IncompleteGroupError) as caught:
        read_raw_group([path], ConversionConfig(), SiteConfig())
    assert f"data of {path.name} begin at 2025-01-14T23:46:36" in str(caught.value)


def test_a_group_agrees_within_tolerances_and_not_to_the_bit(tmp_path: Path) -> None:
    paths = write_group(tmp_path)
    for number, path in enumerate(paths):
        with h5py.File(path, "r+") as file:
            replace("time_array", lambda x, n=number: x + n * 1e-9)(file)
            replace("longitude", lambda x, n=number: x + 360.0 * (n % 2))(file)
            if number == 7:
                ACCEPTED["names with a prefix"](file)
    group = read_raw_group(paths, ConversionConfig(), SiteConfig())
    assert len(group.subbands) == 16
    assert len(group.times_jd) == 3
    assert group.reference.antenna_positions_m.shape == (N_ANTENNAS, 3)


def test_a_chunk_that_is_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    """Chunks are read as a whole, even if the dataset ends within the first one."""

    def swell(file: h5py.File) -> None:
        values = file["Data/nsamples"][()]
        del file["Data/nsamples"]
        file["Data"].create_dataset(
            "nsamples",
            data=values,
            maxshape=(None, 1, 4, 2),
            chunks=(3_000_000, 1, 4, 2),
            compression="gzip",
        )

    with pytest.raises(CorruptInputError, match="nsamples claims 96000000 bytes"):
        read_raw_header(changed(tmp_path, swell))


@pytest.mark.parametrize("key", ["antenna_names", "latitude", "phase_type"])
def test_texts_that_share_a_place_in_the_heap_are_refused(tmp_path: Path, key: str) -> None:
    """500 values of 400 kB, 200 MB in memory, out of a file of less than a megabyte."""
    places = []

    def share(file: h5py.File) -> None:
        del file[f"Header/{key}"]
        dataset = file.create_dataset(f"Header/{key}", (500,), h5py.string_dtype())
        dataset[:] = ["1" * 400_000, *["2"] * 499]
        places.append(dataset.id.get_offset())

    path = changed(tmp_path, share)
    with path.open("r+b") as file:
        file.seek(places[0])
        reference = file.read(16)
        file.seek(places[0])
        file.write(reference * 500)
    tracemalloc.start()
    with pytest.raises(CorruptInputError, match=f"{key} claims more than 1000000 bytes"):
        read_raw_header(path)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_compound_values_of_variable_length_are_refused(tmp_path: Path) -> None:
    """They are not read at all."""

    def compound(file: h5py.File) -> None:
        del file["Header/latitude"]
        kind = np.dtype([("x", h5py.string_dtype()), ("y", "f8")])
        file.create_dataset("Header/latitude", (1,), kind)

    with pytest.raises(CorruptInputError, match="latitude holds compound values"):
        read_raw_header(changed(tmp_path, compound))


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """Its holes count as bytes for HDF5, but not on the disk."""

    def swell(file: h5py.File) -> None:
        shape = (45, 1, 400_000, 2)
        for name in ("visdata", "flags", "nsamples"):
            dtype = file[f"Data/{name}"].dtype
            del file[f"Data/{name}"]
            created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            created.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            created.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(
                file["Data"].id,
                name.encode(),
                h5py.h5t.py_create(dtype, logical=True),
                space,
                created,
            )
        replace("freq_array", lambda _: np.linspace(1.49e9, 1.48e9, 400_000)[None])(file)
        replace("Nfreqs", lambda _: 400_000)(file)

    with pytest.raises(CorruptInputError, match="of which the file holds"):
        read_raw_header(changed(tmp_path, swell))


def test_a_file_that_is_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    """1.5 MB of compressed zeros must not take gigabytes of memory."""

    def swell(file: h5py.File) -> None:
        for name in ("visdata", "flags", "nsamples"):
            dtype = file[f"Data/{name}"].dtype
            del file[f"Data/{name}"]
            file["Data"].create_dataset(
                name, (45, 1, 2_000_000, 2), dtype, chunks=(1, 1, 2_000_000, 2), compression="gzip"
            )
        del file["Header/freq_array"]
        file["Header/freq_array"] = np.linspace(1.49e9, 1.48e9, 2_000_000)[None]
        replace("Nfreqs", lambda _: 2_000_000)(file)

    with pytest.raises(CorruptInputError, match="of which the file holds"):
        read_raw_header(changed(tmp_path, swell))


def test_a_large_file_that_was_never_filled_is_no_swollen_file(tmp_path: Path) -> None:
    """Nothing of it is read: it is accepted, and its sub-band counts as missing."""
    channels = 93_750

    def empty(file: h5py.File) -> None:
        low, width = 1487.03125e6, 11.71875e6 / channels
        for key in ("Header/freq_array", "Header/channel_width", *file["Data"]):
            del file[key if "/" in key else f"Data/{key}"]
        file["Header/freq_array"] = (low + width * (np.arange(channels) + 0.5))[None, ::-1]
        file["Header/channel_width"] = width
        file["Header/Nfreqs"][()] = channels
        rows = len(file["Header/time_array"])
        file["Data"].create_dataset("visdata", (rows, 1, channels, 2), np.complex64)

    header = read_raw_header(changed(tmp_path, empty))
    check_header(header, SiteConfig())
    assert not header.is_written
    with pytest.raises(IncompleteGroupError, match=r"only 0 of 16 .* 00 in"):
        read_raw_group([header.path], ConversionConfig(subbands_min=1), SiteConfig())
