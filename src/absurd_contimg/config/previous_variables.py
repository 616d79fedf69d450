"""Environment variables of the previous system (the seed guide and its units) without a setting."""

from __future__ import annotations

from collections.abc import Mapping

IGNORED_VARIABLES = frozenset(
    {
        *("ABSURD_ENABLED", "ABSURD_DLQ_ENABLED", "ABSURD_DLQ_QUEUE_NAME", "ABSURD_API_BASE_URL"),
        *("ABSURD_API_HEARTBEAT_INTERVAL", "PIPELINE_SYNTHETIC_DIR", "PIPELINE_WRITER"),
        *("PIPELINE_MAX_WORKERS", "PIPELINE_STAGE_TO_TMPFS", "PIPELINE_TELESCOPE_NAME"),
        *("ABSURD_SLACK_CHANNEL", "CAL_REGISTRY_DB", "DATA_REGISTRY_DB", "HDF5_DB_PATH"),
    }
)
"""They have no meaning here and may stay in a unit or an environment file."""

REPLACED_VARIABLES: Mapping[str, str] = {
    "CONTIMG_INPUT_DIR": "Set PIPELINE_INPUT_DIR.",
    "CONTIMG_OUTPUT_DIR": "Set PIPELINE_OUTPUT_DIR: Measurement Sets are in it.",
    "CONTIMG_SCRATCH_DIR": "Set PIPELINE_SCRATCH_DIR.",
    "CONTIMG_MS_DIR": "Set PIPELINE_OUTPUT_DIR: Measurement Sets are in it.",
    "CONTIMG_IMAGES_DIR": "Set PIPELINE_OUTPUT_DIR: images are in it.",
    "CONTIMG_MOSAIC_DIR": "Set PIPELINE_OUTPUT_DIR: mosaics are in it.",
    "PIPELINE_DB": "Set PIPELINE_PRODUCTS_DB: one registry holds everything.",
    "PIPELINE_EXPECTED_SUBBANDS": "Set conversion.expected_subbands in PIPELINE_CONFIG.",
    "PIPELINE_MASK_RADIUS_ARCSEC": "Set imaging.mask_radius_arcsec in PIPELINE_CONFIG.",
    "ABSURD_WORKER_POLL_INTERVAL_SEC": "Set ABSURD_WORKER_POLL_INTERVAL.",
    "ABSURD_TASK_TIMEOUT_SEC": "Set ABSURD_TASK_TIMEOUT.",
}
"""They are refused, with what to do instead: an operator who sets one expects an effect."""
