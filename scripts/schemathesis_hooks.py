"""What schemathesis does before each request of scripts/schemathesis.sh."""

import itertools
import os
import time

import requests
import schemathesis

number = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    """Two calls that a generator happens to give the same Idempotency-Key are not one call sent twice: each gets its own."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key) <= 255 and all("!" <= letter <= "~" for letter in key):
        case.headers["Idempotency-Key"] = f"call-{next(number)}"


class Door(requests.adapters.HTTPAdapter):
    """A run may take longer than a token lives, and no hook of schemathesis' own can tell it of another. Where the words of
    schemathesis.toml stand a young one is sent; whatever is made up in their place is left as it is."""

    token, born = None, 0

    def send(self, request, **options):
        if request.headers.get("Authorization") == "Bearer a-token-that-lives":
            if not Door.token or time.monotonic() - Door.born > 600:
                Door.token, Door.born = self.another(**options), time.monotonic()
            request.headers["Authorization"] = f"Bearer {Door.token}"
        return super().send(request, **options)

    def another(self, **options):
        headers = {"Authorization": f"Basic {os.environ['CLIENT_CREDENTIAL']}"}
        asked = requests.Request("POST", os.environ["TOKEN_URL"], headers, data={"grant_type": "client_credentials"})
        answer = super().send(asked.prepare(), **options)
        answer.raise_for_status()
        return answer.json()["access_token"]


requests.sessions.HTTPAdapter = Door  # of which every session makes its own
