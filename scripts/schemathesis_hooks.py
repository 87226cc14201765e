"""What schemathesis does before each request of scripts/schemathesis.sh."""

import itertools

import schemathesis

number = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    """Two calls that a generator happens to give the same Idempotency-Key are not one call sent twice: each gets its own."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key) <= 255 and all("!" <= letter <= "~" for letter in key):
        case.headers["Idempotency-Key"] = f"call-{next(number)}"
