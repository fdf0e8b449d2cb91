"""Who takes part: stores that somebody else writes to, hosts that run a daemon, and clients that read what it exports."""

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.parse
import xml.etree.ElementTree

WINDLASS = os.environ["WINDLASS"]


class Folder:
    """A store in a folder, as somebody sees it who may write to that."""

    def __init__(self, path):
        self.path, self.url = path, f"file://{path}"

    def list(self):
        """The keys, each with what tells its contents from others."""
        found = {}
        for at, _, files in os.walk(self.path):
            for name in files:
                key = os.path.relpath(os.path.join(at, name), self.path)
                if not key.startswith(".%windlass/"):
                    found[key] = hashlib.md5(self.get(key)).hexdigest() if self._size(key) < 1 << 26 else "huge"
        return found

    def _size(self, key):
        return os.stat(os.path.join(self.path, key)).st_size

    def get(self, key):
        with open(os.path.join(self.path, key), "rb") as f:
            return f.read()

    def put(self, key, data):
        path = os.path.join(self.path, key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + "~", "wb") as f:
            f.write(data)
        os.rename(path + "~", path)

    def put_zeros(self, key, count):
        with open(os.path.join(self.path, key), "wb") as f:
            f.truncate(count)

    def delete(self, key):
        os.unlink(os.path.join(self.path, key))


class Bucket:
    """A prefix of a bucket that anybody may write to."""

    def __init__(self, endpoint, bucket, prefix):
        self.host = endpoint.removeprefix("http://")
        self.root, self.prefix = f"/{bucket}", prefix
        self.url = f"s3://{bucket}/{prefix}?endpoint={endpoint}&region=us-east-1"
        self.line = None

    def _ask(self, verb, path, body=None, headers=None, wanted=(200, 204)):
        for last in (False, True):
            try:
                self.line = self.line or http.client.HTTPConnection(self.host, timeout=120)
                self.line.request(verb, path, body, headers or {})
                answer = self.line.getresponse()
                data = answer.read()
                break
            except (http.client.HTTPException, OSError):
                self.line = None
                if last:
                    raise
        if answer.status not in wanted:
            raise RuntimeError(f"{verb} {path}: {answer.status} {data[:300]}")
        return data

    def _path(self, key):
        return urllib.parse.quote(f"{self.root}/{self.prefix}/{key}")

    def list(self):
        found, after = {}, ""
        while True:
            query = urllib.parse.urlencode({"list-type": 2, "prefix": self.prefix + "/", "start-after": after})
            page = xml.etree.ElementTree.fromstring(self._ask("GET", f"{self.root}?{query}"))
            space = page.tag.removesuffix("ListBucketResult")
            for entry in page.iter(space + "Contents"):
                after = entry.find(space + "Key").text
                found[after.removeprefix(self.prefix + "/")] = entry.find(space + "ETag").text.strip('"')
            if page.find(space + "IsTruncated").text != "true":
                return found

    def get(self, key):
        return self._ask("GET", self._path(key))

    def put(self, key, data):
        self._ask("PUT", self._path(key), data, {"Content-Type": "application/octet-stream"})

    def put_zeros(self, key, count):
        piece = bytes(1 << 20)
        self._ask("PUT", self._path(key), (piece for _ in range(count >> 20)), {"Content-Length": str(count)})

    def delete(self, key):
        self._ask("DELETE", self._path(key), wanted=(200, 204, 404))


class Refused(Exception):
    """An export, or a request, was answered with an error."""


class Waits(Exception):
    """No answer within the time that this client has."""


class Client:
    """A client of NBD that reads, and hears why it may not."""

    def __init__(self, path, export, wait):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(wait)
        try:
            self.sock.connect(path)
            self._take(18)
            name = export.encode()
            data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
            self.sock.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, len(data)) + data)
            while True:
                _, _, kind, length = struct.unpack(">QIII", self._take(20))
                told = self._take(length)
                if kind == 1:
                    break
                if kind >> 31:
                    raise Refused(told.decode(errors="replace"))
                if kind == 3 and told[:2] == b"\0\0":
                    self.size = struct.unpack_from(">Q", told, 2)[0]
        except BaseException:
            self.sock.close()
            raise

    def _take(self, count):
        data = bytearray()
        while len(data) < count:
            try:
                got = self.sock.recv(min(count - len(data), 1 << 20))
            except TimeoutError:
                raise Waits from None
            if not got:
                raise Refused("the server hung up")
            data += got
        return bytes(data)

    def _ask(self, command, offset, length, data=b""):
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, offset, offset, length) + data)
        magic, errno, cookie = struct.unpack(">IIQ", self._take(16))
        if (magic, cookie) != (0x67446698, offset):
            raise AssertionError(f"an answer of {magic:#x} to {cookie}")
        if errno:
            raise Refused(f"error {errno}")

    def read(self, offset, length):
        self._ask(0, offset, length)
        return self._take(length)

    def write(self, offset, data):
        self._ask(1, offset, len(data), data)

    def flush(self):
        self._ask(3, 0, 0)

    def close(self):
        self.sock.close()


class Host:
    """A state folder, and the daemon that runs on it."""

    def __init__(self, home, log, memory="96M"):
        self.home, self.log, self.memory, self.daemon = home, log, memory, None
        os.makedirs(home, exist_ok=True)

    @classmethod
    def copied(cls, origin, home, log):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(origin, home, ignore=lambda at, names: [n for n in names if n.endswith(".sock")])
        return cls(home, log)

    def _env(self):
        return {**os.environ, "WINDLASS_HOME": self.home, "WINDLASS_CACHE": "0", "WINDLASS_MEMORY": self.memory}

    def start(self, wait=30):
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen([WINDLASS, "serve", "--nbd", f"unix:{self.home}/n"], stdout=subprocess.PIPE, stderr=log, env=self._env())
        end = time.monotonic() + wait
        os.set_blocking(self.daemon.stdout.fileno(), False)
        said = b""
        while b"ready\n" not in said:
            said += self.daemon.stdout.read() or b""
            if self.daemon.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the daemon is not ready: {self.told()[-2000:]}")
            time.sleep(0.005)
        return self

    def stop(self, how=signal.SIGKILL):
        if self.daemon:
            self.daemon.send_signal(how)
            try:
                self.daemon.wait(60)
            finally:
                self.daemon.kill()
            self.daemon.stdout.close()
            self.daemon = None

    def client(self, export, wait):
        return Client(f"{self.home}/n", export, wait)

    def greets(self):
        """Whether a client is greeted."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            try:
                sock.connect(f"{self.home}/n")
                return sock.recv(8) == b"NBDMAGIC"
            except OSError:
                return False

    def run(self, *words, wait=90):
        """A command on this host: its exit code, what it printed, what it complained of. 124 when it takes too long."""
        try:
            done = subprocess.run([WINDLASS, *words], capture_output=True, text=True, timeout=wait, env=self._env(), stdin=subprocess.DEVNULL, check=False)
        except subprocess.TimeoutExpired:
            return 124, "", f"no end after {wait} s"
        return done.returncode, done.stdout, done.stderr

    def must(self, *words):
        code, out, err = self.run(*words)
        if code:
            raise AssertionError(f"{' '.join(words)}: exit {code}: {err or out}")
        return out

    def json(self, *words):
        code, out, err = self.run(*words, "--json")
        try:
            return code, json.loads(out)
        except ValueError:
            return code, {"error": err.strip()}

    def told(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def most_memory(self):
        """The most that the daemon has had in memory, in MiB."""
        with open(f"/proc/{self.daemon.pid}/status", encoding="ascii") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) >> 10
