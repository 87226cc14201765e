"""A client of the API over one connection, HTTP/1.1 or HTTP/2, that sends nothing twice: what fails is seen."""

import base64
import http.client
import json
import socket
import ssl


class Unexpected(Exception):
    """An answer that is not the one that was due, or none."""


class Door:
    """Where the service is: a TCP address or a Unix socket, and the name its certificate carries."""

    def __init__(self, authority, name, port=None, path=None):
        self.context = ssl.create_default_context(cafile=authority)
        self.name, self.port, self.path = name, port, path

    def connect(self, protocols):
        if self.path:
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(70)
            plain.connect(self.path)
        else:
            plain = socket.create_connection(("127.0.0.1", self.port), timeout=70)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.context.set_alpn_protocols(protocols)
        return self.context.wrap_socket(plain, server_hostname=self.name)


class Http1:
    """Keep-alive; a new connection only after an answer that announced the end of this one."""

    def __init__(self, door):
        self.door, self.connection = door, None

    def send(self, method, path, headers, body):
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.door.name)
            self.connection.auto_open = 0
            self.connection.sock = self.door.connect(["http/1.1"])
        self.connection.request(method, path, body=body, headers=headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, text

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Http2:
    """One request after another on one connection, which is left after 500: servers end theirs after a thousand."""

    def __init__(self, door):
        self.door, self.socket, self.state, self.sent = door, None, None, 0

    def open(self):
        import h2.config
        import h2.connection

        self.socket = self.door.connect(["h2"])
        if self.socket.selected_alpn_protocol() != "h2":
            raise Unexpected("HTTP/2 was not agreed on")
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.state.initiate_connection()
        self.sent = 0

    def send(self, method, path, headers, body):
        if self.socket is None or self.sent >= 500:
            self.close()
            self.open()
        self.sent += 1
        body = body or b""
        stream = self.state.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":scheme", "https"), (":authority", self.door.name)]
        fields = [(name.lower(), value) for name, value in headers.items()]
        if body:
            fields.append(("content-length", str(len(body))))
        self.state.send_headers(stream, pseudo + fields, end_stream=not body)
        status, text, ended = None, b"", False
        while not ended:
            body = self._send_allowed(stream, body)
            self.socket.sendall(self.state.data_to_send())
            received = self.socket.recv(65536)
            if not received:
                raise ConnectionError("the connection ended before the answer")
            for event in self.state.receive_data(received):
                kind = type(event).__name__
                if kind == "ConnectionTerminated" or (kind == "StreamReset" and event.stream_id == stream):
                    raise ConnectionError(f"HTTP/2: {event}")
                if getattr(event, "stream_id", None) != stream:
                    continue
                if kind == "ResponseReceived":
                    status = int(dict(event.headers)[":status"])
                elif kind == "DataReceived":
                    text += event.data
                    self.state.acknowledge_received_data(event.flow_controlled_length, stream)
                elif kind == "StreamEnded":
                    ended = True
        self.socket.sendall(self.state.data_to_send())
        return status, text

    def _send_allowed(self, stream, body):
        while body:
            window = min(self.state.local_flow_control_window(stream), self.state.max_outbound_frame_size, len(body))
            if window <= 0:
                return body
            self.state.send_data(stream, body[:window], end_stream=window == len(body))
            body = body[window:]
        return body

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None


class Api:
    """The calls of the API. `send` may be wrapped by whoever counts."""

    def __init__(self, connection, client_id, client_secret):
        self.connection = connection
        self.credential = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self.token = None

    def send(self, method, path, headers, body):
        return self.connection.send(method, path, headers, body)

    def call(self, due, method, path, body=b"", kind="application/json"):
        headers = {"Authorization": f"Bearer {self.token}"}
        if body:
            headers["Content-Type"] = kind
        status, text = self.send(method, path, headers, body)
        if status != due:
            raise Unexpected(f"{method} {path}: {status} {text[:300].decode(errors='replace')}")
        return json.loads(text) if text else None

    def sign_in(self):
        headers = {"Authorization": f"Basic {self.credential}", "Content-Type": "application/x-www-form-urlencoded"}
        status, text = self.send("POST", "/oauth/token", headers, b"grant_type=client_credentials")
        if status != 200:
            raise Unexpected(f"POST /oauth/token: {status} {text[:300].decode(errors='replace')}")
        self.token = json.loads(text)["access_token"]

    def new_subject(self, reference):
        body = json.dumps({"external_ref": reference}).encode()
        return self.call(201, "POST", "/v1/subjects", body)["id"]

    def consent(self, subject):
        body = json.dumps({"purpose": "face_verification", "notice_version": "test-1"}).encode()
        return self.call(201, "POST", f"/v1/subjects/{subject}/consents", body)["id"]

    def enrol(self, subject, photo):
        return self.call(201, "POST", f"/v1/subjects/{subject}/enrolments", photo, "application/octet-stream")["id"]

    def verify(self, subject, photo):
        """True or false."""
        path = f"/v1/subjects/{subject}/verifications"
        return self.call(201, "POST", path, photo, "application/octet-stream")["decision"] == "match"

    def withdraw(self, subject, consent):
        self.call(200, "POST", f"/v1/subjects/{subject}/consents/{consent}/withdraw")

    def erase(self, subject):
        self.call(204, "DELETE", f"/v1/subjects/{subject}")
