"""What differs from the baseline run is said in words: which checkpoint, where in it."""

from __future__ import annotations

from typing import Any

from absurd_contimg.simulation.exploration.differences import task_differences, value_differences

BASELINE: list[Any] = [
    "pay",
    "order-1",
    "completed",
    {"cents": 95},
    {"charge": {"n": [1, 2, 3]}},
    {"card": 1},
]


def changed(**parts: Any) -> list[list[Any]]:
    names = ("name", "key", "state", "result", "saved", "params")
    return [[parts.get(name, value) for name, value in zip(names, BASELINE, strict=True)]]


def test_each_difference_is_a_sentence_about_a_place() -> None:
    cases = {
        "task 'pay' (order-1) is failed, in the baseline run completed": {"state": "failed"},
        "task 'pay' (order-1): its result differs at cents: 96, in the baseline run 95": {
            "result": {"cents": 96}
        },
        "task 'pay' (order-1): its parameters differ at card: 2, in the baseline run 1": {
            "params": {"card": 2}
        },
        "task 'pay' (order-1): checkpoint 'charge' differs at n[1]: 9, in the baseline run 2": {
            "saved": {"charge": {"n": [1, 9, 3]}}
        },
        "task 'pay' (order-1): checkpoint 'charge' is missing: {\"n\": [1, 2, 3]}": {"saved": {}},
        "task 'pay' (order-1): checkpoint 'mail' is new: true": {
            "saved": {"charge": {"n": [1, 2, 3]}, "mail": True}
        },
    }
    for sentence, parts in cases.items():
        assert list(task_differences(changed(**parts), [BASELINE])) == [sentence]


def test_tasks_and_products_that_are_there_once_more_or_not_at_all() -> None:
    assert list(task_differences([], [BASELINE])) == ["task 'pay' (order-1) is missing"]
    (new,) = task_differences([BASELINE, BASELINE], [BASELINE])
    assert new.startswith("task 'pay' (order-1) is new: [\"completed\"")
    image = ["/images/G1", {"key": "a"}, ["image.fits"]]
    other = ["/images/G1", {"key": "b"}, ["image.fits"]]
    assert list(value_differences("product", [other], [image])) == [
        'product /images/G1 differs at [1].key: "b", in the baseline run "a"'
    ]
    assert list(value_differences("record", ["x", "x"], ["x"])) == [
        "records are there a different number of times"
    ]


def test_long_values_are_short_and_few_are_named() -> None:
    (text,) = task_differences(changed(result=dict.fromkeys("abcdef", "x" * 5000)), [BASELINE])
    assert len(text) < 800
    assert "(5002 characters)" in text
    assert text.endswith("; and 4 more")
