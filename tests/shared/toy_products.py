"""Committed products without a stage: a few small files and a manifest that fits them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.products.manifest import Manifest, file_entries, write_manifest
from absurd_contimg.products.store import publish


def toy_product(
    output_dir: Path,
    name: str = "mosaics/window",
    *,
    stage: str = "mosaic",
    group_id: str = "window",
    outputs: Mapping[str, Json] | None = None,
    number: int = 1,
) -> Path:
    """A committed product of two files; another `number` is another product of that name."""
    key = f"{number:010x}" + "0" * 30
    product = output_dir / "scratch" / "toy" / key
    (product / "plane").mkdir(parents=True)
    (product / "image.fits").write_bytes(b"image %d" % number)
    (product / "plane" / "weight.fits").write_bytes(b"weight")
    location = f"{name}-{key[:10]}"
    manifest = Manifest(
        stage=stage,
        stage_version=1,
        key=key,
        location=location,
        output_dir=str(output_dir),
        group_id=group_id,
        parameters={},
        inputs=(),
        outputs=outputs or {},
        files=file_entries(product),
        software={},
        created_at="2026-01-01T00:00:00+00:00",
        attempt="1",
        host="here",
    )
    write_manifest(product, manifest)
    return publish(product, output_dir / location).folder
