"""What a command needs, looked at before it makes a folder, a cluster or a registry."""

from __future__ import annotations

from absurd_contimg.core.arguments import text_problem
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.runner import check_folders
from absurd_contimg.execution.scratch import is_path_part
from absurd_contimg.ingest.incoming_folder import IncomingFolder
from absurd_contimg.ingest.spawn import check_inputs, find_catalog
from absurd_contimg.operations.services.state_check import require_own_state
from absurd_contimg.products.publication import check_publish_dir
from absurd_contimg.registry.database import exists as check_registry_url
from absurd_contimg.science.catalogue import read_catalogue
from absurd_contimg.science.imagers import check_imager
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean


def check_worker(settings: Settings) -> None:
    """Raise `SettingError` for settings with which no worker can work."""
    require_own_state(settings)
    _check_worker_id(settings.worker_id)
    check_imager(settings.pipeline.imaging)
    check_registry_url(settings.registry_url)
    check_folders(settings.pipeline.paths)
    check_publish_dir(settings.pipeline.paths)


def _check_worker_id(worker_id: str) -> None:
    problem = text_problem(worker_id)
    if problem is None and not is_path_part(worker_id):
        problem = "cannot be part of a path in scratch"
    if problem is not None:
        raise SettingError(
            f"The worker's name {worker_id!a} {problem}.",
            "Choose one of letters, digits and hyphens: contimg worker --worker-id NAME, or the "
            "variable ABSURD_WORKER_ID.",
        )


def check_spawn(settings: Settings, calibrator: str) -> None:
    """Raise `SettingError` or `MissingInputError` where no task can be spawned."""
    check_inputs(settings)
    check_calibrator(settings, calibrator)
    check_registry_url(settings.registry_url)
    check_folders(settings.pipeline.paths)
    check_publish_dir(settings.pipeline.paths)


def check_daemon(settings: Settings, calibrator: str) -> None:
    """Raise `SettingError` or `MissingInputError` where a daemon could spawn nothing."""
    require_own_state(settings)
    IncomingFolder(settings.pipeline.paths.input_dir).names()
    check_calibrator(settings, calibrator)
    check_registry_url(settings.registry_url)
    check_folders(settings.pipeline.paths)
    check_publish_dir(settings.pipeline.paths)


def check_mosaic(settings: Settings) -> None:
    """Raise `SettingError` or `MissingInputError` where no mosaic can be made."""
    find_catalog(settings)
    check_registry_url(settings.registry_url)
    check_folders(settings.pipeline.paths)


def check_calibrator(settings: Settings, calibrator: str) -> None:
    """Raise `SettingError` for the name of a calibrator that the catalogue does not have."""
    catalog = find_catalog(settings)
    if calibrator in ("auto", "none"):
        return
    names = sorted(source.name for source in read_catalogue(catalog) if source.calibrator)
    if calibrator not in names:
        raise SettingError(
            f"The calibrator {calibrator!r} is not in the catalogue {catalog}.",
            did_you_mean(
                calibrator,
                ("auto", "none", *names),
                "Give auto, none, or a name that it has with calibrator=1, such as "
                f"{', '.join(names[:5]) or '(it has none)'}.",
            ),
        )
