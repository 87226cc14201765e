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
    """A run may take longer than a token lives. Where the first one stands that schemathesis was told of, a younger one is sent: by no
    hook of its own can it be told of another. Whatever it makes up in a token's place is left as it is."""

    first, credential = (os.environ[name] for name in ("ACCESS_TOKEN", "CLIENT_CREDENTIAL"))
    token, born = first, time.monotonic()

    def send(self, request, **options):
        if request.headers.get("Authorization") == f"Bearer {self.first}":
            if time.monotonic() - Door.born > 600:
                Door.born, Door.token = time.monotonic(), self.another(**options)
            request.headers["Authorization"] = f"Bearer {Door.token}"
        return super().send(request, **options)

    def another(self, **options):
        headers = {"Authorization": f"Basic {self.credential}"}
        asked = requests.Request("POST", os.environ["TOKEN_URL"], headers, data={"grant_type": "client_credentials"})
        answer = super().send(asked.prepare(), **options)
        answer.raise_for_status()
        return answer.json()["access_token"]


requests.sessions.HTTPAdapter = Door  # of which every session makes its own
