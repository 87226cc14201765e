"""A mixed load of enrolments and verifications, each request counted, none sent twice.

usage: python3 -m tests.deploy.load SPECIFICATION.json      runs until SIGTERM, and writes its counts each second

The specification: authority, name, port, client_id, client_secret, photo, out, hold, http1, http2 (how many clients of each).
While the file `hold` is there, nobody is verified or erased, which takes a keyholder; people go on to be enrolled.
"""

import json
import os
import signal
import sys
import threading
import time
import uuid

from .client import Api, Door, Http1, Http2, Unexpected

PAUSE_S = 0.05  # between two requests of one client: the load is to be steady, not the most that is possible
VERIFICATIONS = 8  # of each person


class Counted(Api):
    def __init__(self, connection, client_id, client_secret, counts):
        super().__init__(connection, client_id, client_secret)
        self.counts = counts

    def send(self, method, path, headers, body):
        begun = time.monotonic()
        self.counts["requests"] += 1
        try:
            return super().send(method, path, headers, body)
        finally:
            took = time.monotonic() - begun
            self.counts["slowest_s"] = max(self.counts["slowest_s"], round(took, 3))


class Client(threading.Thread):
    def __init__(self, kind, spec, photo, stop):
        super().__init__(daemon=True)
        self.kind, self.spec, self.photo, self.stop = kind, spec, photo, stop
        self.counts = {"requests": 0, "enrolments": 0, "verifications": 0, "slowest_s": 0.0}
        self.failures = []
        self.at_keyholder = False

    def run(self):
        spec = self.spec
        connection = self.kind(Door(spec["authority"], spec["name"], port=spec["port"]))
        api = Counted(connection, spec["client_id"], spec["client_secret"], self.counts)
        until = 0
        while not self.stop.is_set():
            try:
                if time.monotonic() > until:
                    api.sign_in()
                    until = time.monotonic() + 200
                self.one_person(api)
            except Exception as error:  # whatever it is, a request was lost by it
                at = time.strftime("%H:%M:%S", time.gmtime())
                self.failures.append(f"{at} {self.kind.__name__} {type(error).__name__}: {error}"[:400])
                connection.close()
                self.stop.wait(0.5)
        connection.close()

    def one_person(self, api):
        subject = api.new_subject(f"load-{uuid.uuid4()}")
        self.stop.wait(PAUSE_S)
        api.consent(subject)
        api.enrol(subject, self.photo)
        self.counts["enrolments"] += 1
        for _ in range(VERIFICATIONS):
            self.stop.wait(PAUSE_S)
            if self.stop.is_set() or self.opening(api.verify, subject, self.photo) is None:
                break
            self.counts["verifications"] += 1
        self.opening(api.erase, subject)

    def opening(self, call, subject, *more):
        """What takes a keyholder; nothing, while that is held back."""
        self.at_keyholder = True
        try:
            if os.path.exists(self.spec["hold"]):
                return None
            if call(subject, *more) is False:
                raise Unexpected("the same photo did not match")
            return True
        finally:
            self.at_keyholder = False


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        spec = json.load(file)
    with open(spec["photo"], "rb") as file:
        photo = file.read()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    clients = [Client(Http1, spec, photo, stop) for _ in range(spec["http1"])]
    clients += [Client(Http2, spec, photo, stop) for _ in range(spec["http2"])]
    for client in clients:
        client.start()
    while not stop.wait(1):
        report(clients, spec["out"])
    for client in clients:
        client.join(60)
    report(clients, spec["out"], unfinished=sum(client.is_alive() for client in clients))


def report(clients, out, unfinished=0):
    result = {"at_keyholder": sum(client.at_keyholder for client in clients)}
    result["failures"] = [failure for client in clients for failure in client.failures]
    result["failures"] += ["a request had no answer at the end"] * unfinished
    for kind in ("Http1", "Http2"):
        counts = [client.counts for client in clients if client.kind.__name__ == kind]
        names = ("requests", "enrolments", "verifications")
        result[kind] = {name: sum(count[name] for count in counts) for name in names}
        result[kind]["slowest_s"] = max((count["slowest_s"] for count in counts), default=0)
    with open(out + ".new", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(out + ".new", out)


if __name__ == "__main__":
    main()
