"""Values of each type, the ends of its range among them, under every operator and function."""

from __future__ import annotations

from itertools import product

VALUES: dict[str, tuple[str, ...]] = {
    "smallint": ("0", "1", "-7", "32767", "-32768"),
    "integer": ("0", "1", "-7", "2147483647", "-2147483648"),
    "bigint": ("0", "3", "9223372036854775807", "-9223372036854775808"),
    "numeric": (
        "0", "0.00", "1.50", "-7.25", "1e30", "1e-20", "12345678901234567890123456789012345.678",
        "NaN", "Infinity", "-Infinity", "1e131071",
    ),
    "float8": (
        "0", "-0", "1.5", "-2.5", "1e308", "-1e308", "5e-324", "1e-200", "NaN", "Infinity",
        "-Infinity",
    ),
    "date": (
        "2024-02-29", "infinity", "-infinity", "5874897-12-31", "4714-11-24 BC", "0001-01-01",
    ),
    "timestamp": (
        "2024-02-29 12:34:56.789", "infinity", "-infinity", "294276-12-31 23:59:59",
        "4714-11-24 00:00:00 BC",
    ),
    "timestamptz": (
        "2024-02-29 12:34:56.789+00", "infinity", "-infinity", "294276-12-31 23:59:59+00",
        "4714-11-24 00:00:00+00 BC",
    ),
    "interval": (
        "0", "1 day", "1 month -3 days 04:05:06.789", "2147483647 days", "-2147483648 days",
        "178956970 years", "2562047788:00:00", "infinity", "-infinity",
    ),
}  # fmt: skip
LITERALS = ["'5'", "null"] + [
    f"'{text}'::{kind}" for kind, texts in VALUES.items() for text in texts
]
OPERATORS = ("+", "-", "*", "/", "%", "=", "<", ">=", "<>", "<<", "&", "is distinct from")
FUNCTIONS = (
    "-{}", "abs({})", "sign({})", "round({})", "ceil({})", "floor({})", "trunc({})", "round({}, 2)",
    "round({}, -2)", "trunc({}, 3)", "mod({}, 7)", "div({}, 7)", "sqrt({})", "exp({})", "ln({})",
    "log({})", "power({}, 2::float8)", "power({}, 0.5::float8)", "power({}, -1::float8)",
    "sum({})", "avg({})", "min({})", "max({})", "stddev({})", "variance({})", "count({})",
    "percentile_cont(0.5) within group (order by {})", "bit_and({})",
    "{}::smallint", "{}::integer", "{}::bigint", "{}::numeric", "{}::numeric(10, 2)", "{}::float8",
    "{}::date", "{}::timestamp", "{}::timestamptz", "{}::interval", "{}::text", "{}::boolean",
    "to_jsonb({})", "to_json({})", "json_build_array({})", "array[{}]", "row({})", "md5({}::text)",
    "format('%s', {})", "concat({}, 'x')", "coalesce({}, 1)", "greatest({}, '1')",
    "coalesce({}, 'null'::jsonb)", "{} between {} and {}", "{} is null", "pg_typeof({})",
    "isfinite({})", "age({}, timestamp '2000-01-01')", "to_timestamp({})",
    "date_trunc('day', {})", "date_trunc('month', {})", "date_trunc('century', {})",
    "date_part('epoch', {})", "date_part('month', {})", "({} at time zone 'Europe/Berlin')",
    "justify_hours({})", "justify_days({})", "justify_interval({})", "make_interval(secs => {})",
    "make_interval(days => {}::integer)", "extract(epoch from {})", "extract(year from {})",
    "extract(day from {})", "extract(julian from {})", "extract(week from {})",
    "extract(dow from {})", "extract(century from {})", "extract(isoyear from {})",
    "extract(milliseconds from {})", "extract(timezone from {})", "extract(quarter from {})",
    "extract(decade from {})", "extract(doy from {})", "extract(hour from {})",
)  # fmt: skip


def arithmetic_queries() -> list[str]:
    """One for each two values and operator, and for each value and function."""
    pairs = [
        f"{left} {operator} {right}"
        for left, right, operator in product(LITERALS, LITERALS, OPERATORS)
    ]
    calls = [function.replace("{}", value) for function, value in product(FUNCTIONS, LITERALS)]
    return [f"select x::text from (select {one}) as t (x)" for one in pairs + calls]
