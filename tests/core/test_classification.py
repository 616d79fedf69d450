"""The failure table as a whole: every failure gets a verdict, and wrapping does not change it."""

from __future__ import annotations

import ast
import errno
import fcntl
import json
import pickle
import re
import signal
import tempfile
from multiprocessing.pool import ExceptionWithTraceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg import errors
from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.evidence import Evidence, ExceptionEvidence
from absurd_contimg.core.failures import Classifier, FailureKind, FailureRule
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import StageFailed, StageRequest
from absurd_contimg.execution.executor import _failure as executor_failure
from absurd_contimg.execution.stage_process import _failure as child_failure
from absurd_contimg.operations.cli.failure_table import RULES, failure_table
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.workflows.failure_rules import CLASSIFIER

DOCUMENT = Path(__file__).parents[2] / "docs" / "failures.md"

LISTED: tuple[type[Exception], ...] = (
    *(ValueError, KeyError, TypeError, MemoryError, ConnectionResetError, TimeoutError),
    *(errors.InputError, errors.CorruptInputError, errors.NoCalibratorError, errors.OutputError),
)
UNLISTED: tuple[type[Exception], ...] = (Exception, RuntimeError, StopAsyncIteration, EOFError)

leaves = st.one_of(
    st.sampled_from(LISTED).map(lambda kind: kind("x")),
    st.sampled_from(sorted(errno.errorcode)).map(lambda code: OSError(code, "x")),
    st.sampled_from(UNLISTED).map(lambda kind: kind("nothing to read here")),
    st.sampled_from(["No space left on device", "database is locked", "Permission denied"]).map(
        RuntimeError
    ),
)


def wrap(inner: Exception, how: str, outer: type[Exception]) -> Exception:
    """The inner error as user code wraps it, or as another process reports it."""
    if how == "child":
        return from_the_child(inner)
    try:
        try:
            raise inner
        except Exception as caught:
            if how == "cause":
                raise outer("while working") from caught
            if how == "context":
                raise outer("while working")  # noqa: B904 - what users write
            raise ExceptionGroup("several", [caught]) from None
    except Exception as wrapped:  # noqa: BLE001 - any of them
        return wrapped


def from_the_child(error: Exception) -> StageFailed:
    """What a stage's process reports of an error, read by its executor."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "result.json"
        LOCAL.write_json(report, {"succeeded": False, **child_failure(error)})
        request = StageRequest(
            stage="module:Class",
            stage_name="image",
            context=PipelineContext(PipelineConfig(paths=PathsConfig.below(Path(folder))), {}),
            attempt="1",
            scratch=Path(folder),
            casa_log=Path(folder) / "casa.log",
            output_log=Path(folder) / "output.log",
            deadline_seconds=1.0,
        )
        return executor_failure(request, 1, True, json.loads(report.read_bytes()))


wrappings = st.lists(
    st.tuples(st.sampled_from(["cause", "context", "group", "child"]), st.sampled_from(UNLISTED)),
    max_size=5,
)


@given(leaves, wrappings)
def test_verdict_does_not_depend_on_the_wrapping(
    leaf: Exception, wrappings: list[tuple[str, type[Exception]]]
) -> None:
    """However deep an error is wrapped in unlisted ones, and in the report of a process."""
    plain = CLASSIFIER.classify(Evidence.of(leaf))
    error = leaf
    for how, outer in wrappings:
        error = wrap(error, how, outer)
    assert CLASSIFIER.classify(Evidence.of(error)) == plain


@given(leaves)
def test_verdict_is_the_same_from_a_pool_of_processes(leaf: Exception) -> None:
    """Pickled with its traceback as the text of a cause; for users whose steps use such a pool."""
    try:
        raise leaf
    except Exception as caught:  # noqa: BLE001 - any of them
        pickled = pickle.dumps(ExceptionWithTraceback(caught, caught.__traceback__))
    plain = CLASSIFIER.classify(Evidence.of(leaf))
    assert CLASSIFIER.classify(Evidence.of(pickle.loads(pickled))) == plain


@given(
    st.builds(
        Evidence,
        exceptions=st.lists(
            st.builds(
                ExceptionEvidence,
                type_names=st.lists(st.text(), max_size=3).map(tuple),
                message=st.text(),
                errno=st.none() | st.integers(),
                implicit_links=st.integers(0, 3),
            ),
            max_size=3,
        ).map(tuple),
        exit_code=st.none() | st.integers(),
        signal=st.none() | st.sampled_from(list(signal.Signals)).map(int),
        log_messages=st.lists(st.text(), max_size=3).map(tuple),
    )
)
def test_classification_is_total_and_evidence_survives_its_json(evidence: Evidence) -> None:
    """Any evidence gets a kind, a rule and an advice, and the same ones after a round trip."""
    verdict = CLASSIFIER.classify(evidence)
    assert verdict.kind in FailureKind
    assert verdict.advice
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json()))) == evidence


@given(st.lists(st.sampled_from(sorted(errno.errorcode)), min_size=1, max_size=4))
def test_innermost_errno_that_has_a_rule_decides(codes: list[int]) -> None:
    """A full disk that became an I/O error on its way up is a full disk."""
    error = OSError(codes[0], "x")
    for code in codes[1:]:
        outer = OSError(code, "x")
        outer.__cause__ = error
        error = outer
    known = {code for rule in CLASSIFIER.rules for code in rule.errnos}
    decides = next((code for code in codes if code in known), None)
    result = CLASSIFIER.classify(Evidence.of(error))
    if decides is not None:
        assert result.matched == f"errno {errno.errorcode[decides]}"
    else:
        assert not result.matched.startswith("errno")


@given(st.integers(1, 6), st.data())
def test_nearest_class_that_has_a_rule_decides(depth: int, data: st.DataObject) -> None:
    """In any line of subclasses, with rules for some, in any order of the table."""
    line: list[type[Exception]] = [Exception]
    for number in range(depth):
        line.append(type(f"Class{number}", (line[-1],), {}))
    names = [f"{item.__module__}.{item.__qualname__}" for item in line]
    ruled = data.draw(st.lists(st.sampled_from(range(depth + 1)), unique=True))
    rules = [
        FailureRule(f"rule-{n}", FailureKind.PERMANENT, "a", "s", exceptions=frozenset({names[n]}))
        for n in ruled
    ]
    raised = data.draw(st.integers(0, depth))
    error = line[raised]("x")
    nearest = max((n for n in ruled if n <= raised), default=None)
    expected = "unrecognised" if nearest is None else f"rule-{nearest}"
    assert Classifier(rules).classify(Evidence.of(error)).rule_id == expected


@given(st.permutations(("builtins.LookupError", "builtins.KeyError", "builtins.Exception")))
def test_subclass_counts_before_its_class(order: list[str]) -> None:
    """In whatever order the table lists them."""
    rules = [
        FailureRule(name, FailureKind.PERMANENT, "a", "s", exceptions=frozenset({name}))
        for name in order
    ]
    assert Classifier(rules).classify(Evidence.of(KeyError("x"))).rule_id == "builtins.KeyError"
    assert Classifier(rules).classify(Evidence.of(IndexError())).rule_id == "builtins.LookupError"
    assert Classifier(rules).classify(Evidence.of(OSError())).rule_id == "builtins.Exception"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), FailureKind.PERMANENT),
        (PermissionError(errno.EACCES, "not yours"), FailureKind.PERMANENT),
        (OSError(errno.ENOSPC, "full"), FailureKind.RESOURCE),
        (OSError(errno.EDQUOT, "quota"), FailureKind.RESOURCE),
        (TimeoutError("slow"), FailureKind.TRANSIENT),
    ],
)
def test_os_errors_are_told_apart_by_their_errno(error: OSError, kind: FailureKind) -> None:
    """They are all `OSError`: the errno decides."""
    assert CLASSIFIER.classify(Evidence.of(error)).kind is kind


def test_a_lock_that_is_held_is_no_shortage_of_processes(tmp_path: Path) -> None:
    """Both are EAGAIN with the same text; what starts processes was called a file that is busy."""
    with (tmp_path / "a").open("w") as first, (tmp_path / "a").open("w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError) as caught:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert CLASSIFIER.classify(Evidence.of(caught.value)).rule_id == "busy"


def test_error_being_handled_is_no_cause() -> None:
    """A missing cache file led to a download that failed: the network decides."""
    missing, gone = FileNotFoundError(errno.ENOENT, "cache"), ConnectionResetError("server gone")
    gone.__context__ = missing
    assert CLASSIFIER.classify(Evidence.of(gone)).rule_id == "connection"


def test_import_that_found_no_memory_is_no_wrong_value() -> None:
    """Found by the campaign: casatools looks elsewhere for a library that cannot be mapped."""
    with pytest.raises(ImportError) as caught:  # noqa: PT012 - one error in the other
        try:
            raise ImportError("_msuvbinner.so: failed to map segment from shared object")
        except ImportError:
            raise ModuleNotFoundError("No module named '_msuvbinner'")  # noqa: B904 - as it does
    assert CLASSIFIER.classify(Evidence.of(caught.value)).rule_id == "import-memory"
    no_text = ImportError("<no text: str() of it raises MemoryError>")  # seen in a full test run
    assert CLASSIFIER.classify(Evidence.of(no_text)).rule_id == "import-memory"
    missing = CLASSIFIER.classify(Evidence.of(ModuleNotFoundError("No module named 'casatasks'")))
    assert (missing.kind, missing.rule_id) == (FailureKind.RESOURCE, "import-failed")


@pytest.mark.parametrize("other", [AttributeError, TypeError, KeyError, SyntaxError])
@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_import_that_fails_is_no_wrong_value(link: str, other: type[Exception]) -> None:
    """CASA's packages meet a missing docstring first (PYTHONOPTIMIZE=2), or wrap the import."""
    for outer, inner in (
        (ModuleNotFoundError("No module named 'cerberus'"), other("x")),
        (other("x"), ModuleNotFoundError("No module named 'cerberus'")),
        (ImportError("the extension does not load"), other("x")),
        (other("x"), ImportError("the extension does not load")),
    ):
        setattr(outer, link, inner)
        verdict = CLASSIFIER.classify(Evidence.of(outer))
        assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "import-failed")


def test_text_that_is_no_module_has_a_wrong_syntax_for_good() -> None:
    """Of a half-written module the error names a file; it waits."""
    for text in ("[1,", "1 +"):
        with pytest.raises(SyntaxError) as caught:
            ast.literal_eval(text)
        assert CLASSIFIER.classify(Evidence.of(caught.value)).rule_id == "wrong-value"


def test_memory_and_disk_count_before_the_import_that_they_ended() -> None:
    """A library that finds no memory is also reported as a missing module."""
    for inner, rule_id in (
        (MemoryError(), "no-memory"),
        (OSError(errno.ENOSPC, "x"), "disk-full"),
    ):
        outer = ModuleNotFoundError("No module named 'numpy'")
        outer.__context__ = inner
        assert CLASSIFIER.classify(Evidence.of(outer)).rule_id == rule_id


def test_full_disk_in_casas_log_counts_before_the_check_that_noticed() -> None:
    """Conflicting evidence: the stage's check finds a truncated file, the log names the reason."""
    cut = ExceptionEvidence.of(errors.OutputError("image.fits is truncated"))
    text = "BlockIO::write: Error writing record"
    assert CLASSIFIER.classify(Evidence((cut,))).kind is FailureKind.TRANSIENT
    verdict = CLASSIFIER.classify(Evidence((cut,), log_messages=(text,)))
    assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "silent-disk-full")


CASA_SAYS = [
    (
        "RuntimeError",
        "Exception: No work directory with at least 12MB free can be found",
        "casa-text-disk-full",
    ),
    ("RuntimeError", "Table /d/nope.ms does not exist", "casa-text-bad-table"),
    (
        "AssertionError",
        "the vis parameter must be a path that exists ('n.ms')",
        "casa-missing-path",
    ),
    ("AssertionError", "{'calmode': ['unallowed value zz']}", "casa-bad-parameter"),
    ("AssertionError", "{'minsnr': ['must be of cFloat type']}", "casa-bad-parameter"),
    ("RuntimeError", 'Antenna Expression: No match found for token(s) "NO"', "casa-selection"),
    (
        "RuntimeError",
        "MSSelectionNullSelection : The selected table has zero rows",
        "casa-selection",
    ),
    ("RuntimeError", "Invalid Image Parameter set : Error in converting", "casa-image-parameters"),
    ("RuntimeError", "Error in making PSF : Cannot open existing image : ei.psf", "casa-leftover"),
    (
        "RuntimeError",
        "Directory::create error on /ro/x.psf: Permission denied",
        "casa-text-permission",
    ),
    (
        "RuntimeError",
        "FilebufIO::readBlock - incorrect number of bytes read",
        "casa-text-bad-table",
    ),
    (
        "RuntimeError",
        "AipsIO::getNextType: /d/table.dat - no magic value found",
        "casa-text-bad-table",
    ),
    (
        "RuntimeError",
        "RegularFileIO: error in open of file: Too many open files",
        "casa-text-descriptors",
    ),
    (
        "RuntimeError",
        "Error (Resource deadlock avoided) when acquiring lock on x",
        "casa-text-lock",
    ),
    ("RuntimeError", "FiledesIO::write - write error in file /d/table.f22", "casa-text-disk-full"),
    (
        "RuntimeError",
        "Disable slist on flush dest failure failed (errno = 28)",
        "casa-text-disk-full",
    ),
    ("OSError", "Unable to synchronously open file (file signature not found)", "hdf5-damaged"),
    ("OSError", "Unable to synchronously open file (truncated file: eof = 9)", "hdf5-damaged"),
    ("KeyError", "freq_array not found in /Header", "uvh5-header"),
    ("AttributeError", "time_array not found in Header", "uvh5-header"),
    ("OperationalError", "database is locked", "database-locked"),
    ("RuntimeError", "/bin/sh: fork: retry: Resource temporarily unavailable", "threads"),
    ("RuntimeError", "/bin/sh: 1: Cannot fork", "threads"),
    ("OperationalError", "no such column: error_message", "database-schema"),
]


@pytest.mark.parametrize(("name", "message", "rule_id"), CASA_SAYS)
def test_messages_as_observed(name: str, message: str, rule_id: str) -> None:
    """The words of casatasks 6.7, pyuvdata 3.2 and sqlite3, in an exception without an errno."""
    first = ExceptionEvidence((f"builtins.{name}", "builtins.Exception"), message)
    assert CLASSIFIER.classify(Evidence((first,))).rule_id == rule_id


@pytest.mark.parametrize(
    ("number", "text", "rule_id"),
    [
        (
            signal.SIGABRT,
            "what(): write error for file x: No space left on device",
            "abort-disk-full",
        ),
        (signal.SIGABRT, "terminate called after std::bad_alloc", "abort-memory"),
        (signal.SIGABRT, "what():  Resource temporarily unavailable", "abort-processes"),
        (
            signal.SIGINT,
            "OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2",
            "abort-processes",
        ),
        (signal.SIGABRT, "double free or corruption (!prev)", "crashed"),
        (signal.SIGSEGV, "", "crashed"),
        (signal.SIGBUS, "", "crashed"),
        (signal.SIGKILL, "", "killed"),
    ],
)
def test_ends_of_a_process(number: signal.Signals, text: str, rule_id: str) -> None:
    """A signal alone is ambiguous; with the printed message it is not."""
    evidence = Evidence(signal=int(number), log_messages=(text,))
    assert CLASSIFIER.classify(evidence).rule_id == rule_id


def test_verdict_names_the_path_of_the_evidence_that_decides() -> None:
    """Of the error that a rule matches, else the full disk found beside the failed process."""
    missing = FileNotFoundError(errno.ENOENT, "no such file", "/cache/sky.csv")
    full = OSError(errno.ENOSPC, "full", "/scratch/a.ms", None, "/data/a.ms")
    full.__context__ = missing
    wrapped = RuntimeError("the stage failed")
    wrapped.__cause__ = full
    assert CLASSIFIER.classify(Evidence.of(wrapped)).path == "/data/a.ms"
    assert CLASSIFIER.classify(Evidence.of(missing)).path == "/cache/sky.csv"
    logged = ("No space left on device",)
    aborted = Evidence(signal=int(signal.SIGABRT), log_messages=logged, path="/scratch")
    assert CLASSIFIER.classify(aborted).path == "/scratch"
    assert CLASSIFIER.classify(Evidence.of(OSError(errno.ENOSPC, "full", 7))).path is None


def test_evidence_of_an_earlier_version_is_read() -> None:
    """It has no path, and calls the log messages CASA's."""
    error = {"type_names": ["builtins.OSError"], "message": "full", "errno": 28}
    saved = {
        "exceptions": [error],
        "exit_code": 1,
        "signal": None,
        "casa_messages": ["Error writing record"],
        "traceback": None,
    }
    evidence = Evidence.from_json(saved)
    assert evidence.log_messages == ("Error writing record",)
    assert evidence.exceptions == (ExceptionEvidence(("builtins.OSError",), "full", 28),)


def test_every_rule_says_what_to_do_and_where_it_was_seen() -> None:
    for rule in CLASSIFIER.rules:
        assert re.fullmatch(r"[a-z0-9-]+", rule.id)
        assert rule.advice.endswith((".", "TASK", "GROUP", "KEY", "doctor", "accept-folder")), (
            rule.id
        )
        assert rule.source
        assert rule.sorts_of_evidence(), rule.id


def test_document_is_the_table() -> None:
    """``docs/failures.md`` is written from the code; regenerate it when this fails."""
    written = DOCUMENT.read_text(encoding="utf-8")
    expected = failure_table(RULES, RetryPolicy())
    assert written == expected, "contimg failures --markdown > docs/failures.md"
