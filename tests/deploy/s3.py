"""Before an S3 server that believes everybody: TLS, and AWS' signature of each request (version 4), computed anew and compared.

usage: python3 -m tests.deploy.s3 PORT CERTIFICATE KEY BACKEND_PORT      credentials in S3_KEY, S3_KEY_SECRET
"""

import hashlib
import hmac
import http.client
import http.server
import os
import ssl
import sys
import urllib.parse


def signature(secret, method, target, headers, body, authorization):
    """What `Authorization` should end with."""
    fields = dict(part.strip().split("=", 1) for part in authorization.split(" ", 1)[1].split(","))
    date, region, service, end = fields["Credential"].split("/")[1:]
    path, _, query = target.partition("?")
    pairs = sorted(pair if "=" in pair else pair + "=" for pair in query.split("&") if pair)
    named = fields["SignedHeaders"].split(";")
    digest = headers["x-amz-content-sha256"]
    if digest != hashlib.sha256(body).hexdigest():
        return None, fields
    canonical = "\n".join([
        method, path, "&".join(pairs), "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in named), ";".join(named), digest,
    ])
    scope = f"{date}/{region}/{service}/{end}"
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in (date, region, service, end, text):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return key.hex(), fields


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        due, fields = None, {}
        if headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 ") and "x-amz-content-sha256" in headers:
            due, fields = signature(os.environ["S3_KEY_SECRET"], self.command, self.path, headers, body, headers["authorization"])
        known = fields.get("Credential", "").split("/")[0] == os.environ["S3_KEY"]
        if not (known and due and hmac.compare_digest(due, fields["Signature"])):
            self.answer(403, {}, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
            return
        backend = http.client.HTTPConnection("127.0.0.1", int(sys.argv[4]), timeout=60)
        backend.request(self.command, self.path, body, headers)
        answer = backend.getresponse()
        text = answer.read()
        kept = {name: value for name, value in answer.getheaders()
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date")}
        self.answer(answer.status, kept, text, answer.getheader("Content-Length"))

    def answer(self, status, headers, text, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

    def log_message(self, *_):
        print(self.command, urllib.parse.unquote(self.path), *_[1:], flush=True)


def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Front)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
