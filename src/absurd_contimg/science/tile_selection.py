"""Which images a mosaic is made of, and the restoring beam that they get."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from absurd_contimg.config import PipelineConfig
from absurd_contimg.config.mosaic import MosaicTier
from absurd_contimg.errors import TooFewTilesError
from absurd_contimg.products.mosaic_outputs import MissingMember, MosaicMember, MosaicMembers
from absurd_contimg.science.restoring_beams import RestoringBeam, common_beam

_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Selection:
    """The members that a mosaic is made of, in the order of time, and the others."""

    used: tuple[MosaicMember, ...]
    refused: tuple[MissingMember, ...]
    beam: RestoringBeam
    """Of the mosaic."""
    beams_differ: bool
    """Tiles are convolved to it."""


def select_tiles(members: MosaicMembers, config: PipelineConfig, tier: MosaicTier) -> Selection:
    """Refuse tiles with reasons; raises `TooFewTilesError` if too few are left."""
    settings = config.mosaic
    refused = list(members.missing)
    noise_limit = median_area = math.inf
    if members.tiles:
        noises = [member.image.rms_jy for member in members.tiles]
        noise_limit = settings.limits(tier).tile_noise_max * float(np.median(noises))
        median_area = float(np.median([beam_of(m).area_arcsec2 for m in members.tiles]))
    used = []
    for member in sorted(members.tiles, key=lambda m: (m.image.mid_mjd, m.group_id)):
        ratio = beam_of(member).area_arcsec2 / median_area
        gates = sorted(set(member.failed_gates) & set(settings.refused_gates))
        reason = ""
        if gates:
            reason = f"its validation failed: {', '.join(gates)}"
        elif not settings.recognises(member.n_matched, member.n_expected):
            reason = (
                f"{member.n_matched} of the {member.n_expected} catalogue sources that it should "
                f"show are where the catalogue has them; a tile needs "
                f"{settings.tile_completeness_min:.0%}"
            )
        elif not 0 < member.image.rms_jy <= noise_limit * (1 + _TIE):
            reason = (
                f"its noise of {1e3 * member.image.rms_jy:.3g} mJy exceeds "
                f"{1e3 * noise_limit:.3g} mJy, the limit of a {tier} mosaic of these tiles"
            )
        elif max(ratio, 1 / ratio) > settings.beam_area_ratio_max:
            reason = (
                f"its restoring beam has {ratio:.2f} times the median area; the limit is "
                f"{settings.beam_area_ratio_max:g}"
            )
        if reason:
            refused.append(MissingMember(member.group_id, reason))
        else:
            used.append(member)
    if len(used) < settings.tiles_min:
        reasons = "; ".join(f"{m.group_id}: {m.reason}" for m in refused[:5]) or "no member"
        raise TooFewTilesError(
            f"{len(used)} tiles can be used, and a mosaic needs {settings.tiles_min} ({reasons}).",
            "Process the named groups again, then: contimg mosaic make WINDOW --again",
        )
    beam, differ = common_beam([beam_of(m) for m in used], settings.beam_tolerance)
    return Selection(tuple(used), tuple(sorted(refused, key=lambda m: m.group_id)), beam, differ)


def beam_of(member: MosaicMember) -> RestoringBeam:
    """The restoring beam of a member's image."""
    image = member.image
    return RestoringBeam(image.bmaj_arcsec, image.bmin_arcsec, image.bpa_deg)
