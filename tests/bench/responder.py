"""What do the stores besides S3 answer to somebody who reads?  For the benches: fast, and not strict.

`python -m tests.bench.responder --store gs --delay 0.02` serves a corpus of `corpus.py` as one bucket, from memory,
on the connections of `s3http.py`, so that what is measured is the client and not an emulator. Nothing is checked and
nothing can be written; whether a driver speaks its store's language is for the contract suite to say.

Sources: Google "Cloud Storage JSON API"; Microsoft "List Blobs"; OpenStack "Object Storage API" and "Identity API v3";
Alibaba Cloud OSS "ListObjectsV2".
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import http.client
import json
import sys
from collections import Counter
from email.utils import formatdate
from typing import ClassVar
from urllib.parse import parse_qsl, quote, unquote_to_bytes
from xml.sax.saxutils import escape

from typing_extensions import override

from tests.bench import corpus
from tests.bench.child import Child
from tests.bench.s3http import Answer, Connection, Fault, Request
from tests.bench.s3objects import Bucket, Listing, Object

BUCKET = "state"
MODIFIED_S = 1_790_000_000
MODIFIED = formatdate(MODIFIED_S, usegmt=True)
ISO = "2026-09-21T13:33:20"
REQUESTS = "/requests"
XML = '<?xml version="1.0" encoding="utf-8"?>'


class Responder:
    """One bucket over HTTP; a subclass says which paths are listings and objects, and how answers look."""

    object_path: ClassVar[str]
    """What stands before a key."""
    list_path: ClassVar[str]
    after: ClassVar[str]
    """The parameter of a listing that says where it continues."""
    limit: ClassVar[str]

    def __init__(self, objects: dict[str, bytes], delay_s: float) -> None:
        self.bucket = Bucket(BUCKET)
        for key, data in objects.items():
            self.bucket.put(key.encode(), data, {}, modified_s=MODIFIED_S)
        self.delay_s = delay_s
        self.faults: list[Fault] = []
        self.connections: set[Connection] = set()
        self.bytes_in = self.bytes_out = 0
        self.requests: Counter[str] = Counter()
        self.port = 0

    def classify(self, request: Request) -> None:
        path = request.raw_path.decode("latin-1")
        if path == REQUESTS:
            request.verb = "control"
            return
        if path == self.list_path and request.method == "GET":
            request.verb = "list"
        elif path.startswith(self.object_path):
            request.verb = request.method.lower()
            request.key = unquote_to_bytes(path[len(self.object_path) :])
        self.requests[request.verb] += 1

    def answer(self, request: Request) -> Answer:
        if request.verb == "control":
            counted = json.dumps(self.requests).encode()
            self.requests.clear()
            return Answer(200, body=counted)
        if request.verb == "list":
            return self._list(request)
        if request.verb not in {"get", "head"}:
            return self.other(request)
        found = self.bucket.objects.get(request.key)
        if found is None:
            return Answer(404)
        data = found.data if request.verb == "get" else b""
        return Answer(200, self.headers(found), data, size=len(found.data))

    def _list(self, request: Request) -> Answer:
        asked = dict(parse_qsl(request.query.decode(), keep_blank_values=True))
        prefix, delimiter, after = (asked.get(name, "").encode() for name in ("prefix", "delimiter", self.after))
        return self.listing(self.bucket.page(prefix, delimiter, after, int(asked.get(self.limit, 1000))))

    def headers(self, found: Object) -> bytes:
        raise NotImplementedError

    def listing(self, page: Listing) -> Answer:
        raise NotImplementedError

    def other(self, request: Request) -> Answer:
        """Answer what is neither an object nor a listing."""
        return Answer(404)

    def error(self, request: Request, status: int, code: str) -> Answer:
        return Answer(status, body=code.encode())

    def empty_listing(self, request: Request) -> Answer:
        return self.listing(Listing([], [], None))

    def environment(self) -> dict[str, str]:
        """What kopsfs needs to find it."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _lines(**headers: str) -> bytes:
    return "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()).encode()


def _json(row: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, _lines(Content_Type="application/json", **headers), json.dumps(row).encode())


def _md5(found: Object) -> str:
    return base64.b64encode(bytes.fromhex(found.etag)).decode()


class Gs(Responder):
    object_path = f"/download/storage/v1/b/{BUCKET}/o/"
    list_path = f"/storage/v1/b/{BUCKET}/o"
    after, limit = "pageToken", "maxResults"

    @override
    def headers(self, found: Object) -> bytes:
        return _lines(x_goog_generation="1", x_goog_hash=f"crc32c=AAAAAA==,md5={_md5(found)}", Last_Modified=MODIFIED)

    @override
    def listing(self, page: Listing) -> Answer:
        items = [
            {
                "name": found.key.decode(),
                "generation": "1",
                "size": str(len(found.data)),
                "timeCreated": f"{ISO}.000Z",
                "md5Hash": _md5(found),
            }
            for found in page.objects
        ]
        row: dict[str, object] = {"items": items, "prefixes": [group.decode() for group in page.groups]}
        if page.next_after is not None:
            row["nextPageToken"] = page.next_after.decode()
        return _json(row)

    @override
    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.url}


class Azure(Responder):
    object_path = f"/account/{BUCKET}/"
    list_path = f"/account/{BUCKET}"
    after, limit = "marker", "maxresults"

    @override
    def headers(self, found: Object) -> bytes:
        return _lines(ETag=f'"0x{found.etag[:15].upper()}"', Last_Modified=MODIFIED, x_ms_version="2026-02-06")

    @override
    def listing(self, page: Listing) -> Answer:
        blobs = "".join(
            f"<Blob><Name>{escape(found.key.decode())}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified>"
            f"<Etag>0x{found.etag[:15].upper()}</Etag><Content-Length>{len(found.data)}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
            for found in page.objects
        )
        groups = "".join(f"<BlobPrefix><Name>{escape(group.decode())}</Name></BlobPrefix>" for group in page.groups)
        marker = f"<NextMarker>{escape((page.next_after or b'').decode())}</NextMarker>"
        body = f"{XML}<EnumerationResults><Blobs>{blobs}{groups}</Blobs>{marker}</EnumerationResults>"
        return Answer(200, _lines(Content_Type="application/xml", x_ms_version="2026-02-06"), body.encode())

    @override
    def environment(self) -> dict[str, str]:
        key = base64.b64encode(b"a key of the benches").decode()
        parts = f"AccountName=account;AccountKey={key};BlobEndpoint={self.url}/account"
        return {"AZURE_STORAGE_CONNECTION_STRING": parts}


class Swift(Responder):
    object_path = f"/v1/AUTH_bench/{BUCKET}/"
    list_path = f"/v1/AUTH_bench/{BUCKET}"
    after, limit = "marker", "limit"

    @override
    def headers(self, found: Object) -> bytes:
        return _lines(ETag=found.etag, Last_Modified=MODIFIED, X_Timestamp=f"{MODIFIED_S}.00000")

    @override
    def listing(self, page: Listing) -> Answer:
        rows: list[dict[str, object]] = [
            {
                "name": found.key.decode(),
                "hash": found.etag,
                "bytes": len(found.data),
                "last_modified": f"{ISO}.000000",
                "content_type": "application/octet-stream",
            }
            for found in page.objects
        ]
        rows += [{"subdir": group.decode()} for group in page.groups]
        rows.sort(key=lambda row: str(row.get("name") or row["subdir"]).encode())
        return _json(rows)

    @override
    def other(self, request: Request) -> Answer:
        """Answer as Keystone does: what there is, and a token."""
        if request.method == "GET":
            version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": f"{self.url}/v3/"}]}
            return _json({"version": version})
        endpoint = {
            "id": "e",
            "interface": "public",
            "region": "bench",
            "region_id": "bench",
            "url": f"{self.url}/v1/AUTH_bench",
        }
        token = {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": f"{ISO}.000000Z",
            "user": {"id": "u", "name": "bench", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "bench", "domain": {"id": "default", "name": "Default"}},
            "catalog": [{"id": "s", "type": "object-store", "name": "swift", "endpoints": [endpoint]}],
        }
        return _json({"token": token}, 201, X_Subject_Token="bench")

    @override
    def environment(self) -> dict[str, str]:
        return {
            "OS_AUTH_URL": f"{self.url}/v3",
            "OS_USERNAME": "bench",
            "OS_PASSWORD": "bench",
            "OS_PROJECT_NAME": "bench",
            "OS_DOMAIN_ID": "default",
            "OS_REGION_NAME": "bench",
        }


class Oss(Responder):
    object_path = f"/{BUCKET}/"
    list_path = f"/{BUCKET}/"
    after, limit = "continuation-token", "max-keys"

    @override
    def headers(self, found: Object) -> bytes:
        return _lines(ETag=f'"{found.etag.upper()}"', Last_Modified=MODIFIED, x_oss_request_id="bench")

    @override
    def listing(self, page: Listing) -> Answer:
        contents = "".join(
            f"<Contents><Key>{quote(found.key)}</Key><LastModified>{ISO}.000Z</LastModified>"
            f'<ETag>"{found.etag.upper()}"</ETag><Size>{len(found.data)}</Size></Contents>'
            for found in page.objects
        )
        groups = "".join(f"<CommonPrefixes><Prefix>{quote(group)}</Prefix></CommonPrefixes>" for group in page.groups)
        rest = "<IsTruncated>false</IsTruncated>"
        if page.next_after is not None:
            token = f"<NextContinuationToken>{quote(page.next_after)}</NextContinuationToken>"
            rest = f"<IsTruncated>true</IsTruncated>{token}"
        result = f"<EncodingType>url</EncodingType>{contents}{groups}{rest}"
        return Answer(200, b"", f"{XML}<ListBucketResult>{result}</ListBucketResult>".encode())

    @override
    def environment(self) -> dict[str, str]:
        keys = {"ALIYUN_ACCESS_KEY_ID": "bench", "ALIYUN_ACCESS_KEY_SECRET": "bench"}
        return {"OSS_REGION": "cn-hangzhou", "OSS_ENDPOINT": self.url, **keys}


RESPONDERS: dict[str, type[Responder]] = {"gs": Gs, "azureblob": Azure, "swift": Swift, "oss": Oss}


async def _serve(options: argparse.Namespace) -> None:
    responder = RESPONDERS[options.store](corpus.make(options.corpus), options.delay)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(responder), "127.0.0.1", 0, backlog=1024)
    responder.port = server.sockets[0].getsockname()[1]
    print(json.dumps({"port": responder.port, "environment": responder.environment()}), flush=True)
    gc.collect()
    gc.freeze()
    await loop.run_in_executor(None, sys.stdin.read)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.responder", description=__doc__.partition("\n")[0])
    parser.add_argument("--store", choices=RESPONDERS, required=True)
    parser.add_argument("--corpus", choices=corpus.CORPORA, default="clusters")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="before each answer")
    asyncio.run(_serve(parser.parse_args(argv)))


class Running(Child):
    """A responder as a child process."""

    def __init__(self, store: str, *, delay_s: float, corpus: str = "clusters") -> None:
        super().__init__("tests.bench.responder", "--store", store, "--corpus", corpus, "--delay", str(delay_s))
        self.store = store

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.ready["environment"])

    def store_url(self, bucket: str) -> str:
        scheme = {"azureblob": "azureblob://account"}.get(self.store, f"{self.store}:/")
        return f"{scheme}/{bucket}"

    def requests(self) -> dict[str, int]:
        """Give requests by verb since the last time, and start over."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", REQUESTS)
            counted: dict[str, int] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return counted


if __name__ == "__main__":
    main()
