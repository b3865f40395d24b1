"""What does S3 answer?  Requests in, answers out, over the buckets of `s3objects`.

As much of the API as kopsfs, rclone, s3fs and boto3 use. Where AWS and others differ, AWS; `quirks`
switches to what others do:

    ignore-if-match, ignore-if-none-match, ignore-delete-if-match    the condition is not looked at (s3rver, old Ceph)
    unquoted-if-match       a quoted tag never matches (Ceph 16)
    versioned-if-match      in a versioned bucket every If-Match fails (Ceph 16)
    501-if-match, 501-if-none-match, 501-delete-if-match             NotImplemented
    read-only               403 AccessDenied for every write
    no-list                 403 AccessDenied for every listing

Source: AWS S3 API reference; test-servers measured for Ceph and s3rver.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from base64 import b64encode
from collections import Counter, deque
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

from tests.bench.s3http import Answer, Connection, Fault, Request
from tests.bench.s3objects import KEPT_HEADERS, Bucket, Object, Outcome, after_of, listed, token_of
from tests.bench.s3signature import SignatureError, decoded_query, unwrap_aws_chunked, verify

XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'
NS = b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
MESSAGES = {
    "NoSuchKey": "The specified key does not exist.",
    "NoSuchBucket": "The specified bucket does not exist",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold",
    "AccessDenied": "Access Denied",
    "SlowDown": "Please reduce your request rate.",
    "NotImplemented": "A header you provided implies functionality that is not implemented",
    "ServerSideEncryptionConfigurationNotFoundError": "The server side encryption configuration was not found",
}
VERBS = {"GET": "get", "HEAD": "head", "PUT": "put", "DELETE": "delete"}
KEY_BYTES_MAX = 1024


class S3:
    """One server's state: buckets, counters, settings, faults."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.log: deque[tuple[float, str, str, int]] = deque(maxlen=200_000)
        """(unix time of the answer, verb, key or prefix, status)."""
        self.delay_s = 0.0
        self.faults: list[Fault] = []
        self.quirks: set[str] = set()
        self.connections: set[Connection] = set()
        self.bytes_in = 0
        self.bytes_out = 0
        self.region = "us-east-1"
        self.secrets: dict[str, str] = {"bench": "benchbench"}
        self.verify_signature = False

    def reset_counters(self) -> None:
        self.requests.clear()
        self.statuses.clear()
        self.log.clear()
        self.bytes_in = self.bytes_out = 0

    def classify(self, request: Request) -> None:
        raw = request.raw_path
        path = unquote_to_bytes(raw) if b"%" in raw else raw
        bucket, _, request.key = path[1:].partition(b"/")
        request.bucket = bucket.decode("utf-8", "replace")
        verb = VERBS.get(request.method, "other")
        if bucket == b"__control":
            request.verb = "control"
            return
        if not request.key:
            names = {name for name, _ in decoded_query(request.query)}
            listing = verb == "get" and bucket and not names & SUBRESOURCES
            verb = "list" if listing else "delete-many" if b"delete" in names and request.method == "POST" else "other"
            if listing:
                request.key = dict(_form(request.query)).get(b"prefix", b"")
        elif request.query and any(name in {b"uploads", b"uploadId"} for name, _ in decoded_query(request.query)):
            verb = "multipart"
        elif verb == "put" and b"x-amz-copy-source" in request.headers:
            verb = "copy"
        request.verb = verb
        self.requests[verb] += 1

    def answer(self, request: Request) -> Answer:
        answer = self._answer(request)
        self.statuses[answer.status] += 1
        self.log.append((time.time(), request.verb, request.key.decode("utf-8", "surrogateescape"), answer.status))
        return answer

    def _answer(self, request: Request) -> Answer:
        if self.verify_signature:
            try:
                verify(
                    request.method, request.raw_path, request.query, request.headers, bytes(request.body), self.secrets
                )
            except SignatureError as error:
                return self.error(request, 403, str(error))
        if not request.bucket:
            return self.list_buckets(request)
        bucket = self.buckets.get(request.bucket)
        if bucket is None:
            if request.method == "PUT" and not request.key:
                self.buckets[request.bucket] = Bucket(request.bucket)
                return Answer(200, b"Location: /" + request.bucket.encode() + b"\r\n")
            return self.error(request, 404, "NoSuchBucket")
        writes = request.method not in {"GET", "HEAD"}
        if (writes and "read-only" in self.quirks) or (request.verb == "list" and "no-list" in self.quirks):
            return self.error(request, 403, "AccessDenied")
        if request.verb == "get":
            return self.get(request, bucket)
        if request.verb == "list":
            return self.list_objects(request, bucket)
        if not request.key:
            return self.bucket_request(request, bucket)
        if len(request.key) > KEY_BYTES_MAX:
            return self.error(request, 400, "KeyTooLongError")
        handlers = {
            "head": self.get,
            "put": self.put,
            "delete": self.delete,
            "copy": self.copy,
            "multipart": self.multipart,
        }
        handler = handlers.get(request.verb)
        return handler(request, bucket) if handler else self.error(request, 405, "MethodNotAllowed")

    def error(self, request: Request, status: int, code: str) -> Answer:
        text = MESSAGES.get(code, code)
        body = (
            XML + b"<Error><Code>" + code.encode() + b"</Code><Message>" + text.encode() + b"</Message>"
            b"<Key>" + listed(request.key, url=False) + b"</Key>"
            b"<BucketName>" + listed(request.bucket.encode(), url=False) + b"</BucketName>"
            b"<RequestId>" + uuid.uuid4().hex[:16].upper().encode() + b"</RequestId><HostId>bench</HostId></Error>"
        )
        return Answer(status, b"Content-Type: application/xml\r\n", body)

    # Objects

    def get(self, request: Request, bucket: Bucket) -> Answer:
        found = bucket.objects.get(request.key)
        if found is None:
            return self.error(request, 404, "NoSuchKey")
        if request.query:
            special = self.object_subresource(request, found)
            if special is not None:
                return special
        headers = request.headers
        if b"if-match" in headers:
            if bucket.check(request.key, headers[b"if-match"].decode("latin-1"), "") is not Outcome.DONE:
                return self.error(request, 412, "PreconditionFailed")
        if b"if-none-match" in headers:
            tag = headers[b"if-none-match"].decode("latin-1")
            if bucket.check(request.key, "", tag) is not Outcome.DONE:
                return Answer(304, found.headers())
        if b"range" in headers:
            return self.get_range(request, found)
        return Answer(200, found.headers(), found.data)

    def get_range(self, request: Request, found: Object) -> Answer:
        size = len(found.data)
        unit, _, spec = request.headers[b"range"].partition(b"=")
        first, dash, last = spec.partition(b"-")
        if unit.strip() != b"bytes" or not dash or b"," in spec or not (first or last):
            return Answer(200, found.headers(), found.data)
        if first:
            start, stop = int(first), min(int(last) + 1 if last else size, size)
        else:
            start, stop = max(0, size - int(last)), size
        if start >= stop:
            answer = self.error(request, 416, "InvalidRange")
            answer.headers += b"Content-Range: bytes */%d\r\n" % size
            return answer
        return Answer(
            206,
            found.headers() + b"Content-Range: bytes %d-%d/%d\r\n" % (start, stop - 1, size),
            found.data[start:stop],
        )

    def object_subresource(self, request: Request, found: Object) -> Answer | None:
        query = dict(decoded_query(request.query))
        if b"acl" in query:
            return Answer(200, XML_TYPE, XML + ACL)
        if b"tagging" in query:
            return Answer(200, XML_TYPE, XML + b"<Tagging" + NS + b"><TagSet/></Tagging>")
        wanted = query.get(b"versionId", b"").decode()
        if wanted and wanted != found.version_id:
            return self.error(request, 404, "NoSuchVersion")
        return None

    def condition(self, request: Request, bucket: Bucket, *, deleting: bool = False) -> Answer | None:
        """Compare; the answer to a refused write, or None: go on. Nothing else runs before the swap."""
        if_match = request.headers.get(b"if-match", b"").decode("latin-1")
        if_none_match = request.headers.get(b"if-none-match", b"").decode("latin-1")
        prefix = "delete-" if deleting else ""
        quirks = self.quirks
        if (if_match and f"501-{prefix}if-match" in quirks) or (if_none_match and "501-if-none-match" in quirks):
            return self.error(request, 501, "NotImplemented")
        if f"ignore-{prefix}if-match" in quirks:
            if_match = ""
        if "ignore-if-none-match" in quirks:
            if_none_match = ""
        if if_match and bucket.versioned and "versioned-if-match" in quirks:
            return self.error(request, 412, "PreconditionFailed")
        outcome = bucket.check(request.key, if_match, if_none_match, unquoted="unquoted-if-match" in quirks)
        if outcome is Outcome.NO_SUCH_KEY:
            return self.error(request, 404, "NoSuchKey")
        return self.error(request, 412, "PreconditionFailed") if outcome is Outcome.FAILED else None

    def said(self, request: Request) -> dict[str, Any]:
        """Tell what the history of writes keeps of a request."""
        headers = request.headers
        return {
            "if_match": headers.get(b"if-match", b"").decode("latin-1"),
            "if_none_match": headers.get(b"if-none-match", b"").decode("latin-1"),
            "agent": headers.get(b"user-agent", b"").decode("latin-1"),
        }

    def body_of(self, request: Request) -> bytes:
        """Unwrap the body. Raises ValueError."""
        declared = request.headers.get(b"x-amz-content-sha256", b"")
        chunked = declared.startswith(b"STREAMING-") or b"aws-chunked" in request.headers.get(b"content-encoding", b"")
        data = unwrap_aws_chunked(bytes(request.body)) if chunked else bytes(request.body)
        size = request.headers.get(b"x-amz-decoded-content-length")
        if size is not None and int(size) != len(data):
            raise ValueError("IncompleteBody")
        return data

    def meta_of(self, request: Request) -> dict[bytes, bytes]:
        meta = {n: v for n, v in request.headers.items() if n in KEPT_HEADERS or n.startswith(b"x-amz-meta-")}
        encoding = meta.pop(b"content-encoding", b"")
        kept = b",".join(part.strip() for part in encoding.split(b",") if part.strip() not in {b"", b"aws-chunked"})
        if kept:
            meta[b"content-encoding"] = kept
        for name in (b"x-amz-server-side-encryption", b"x-amz-server-side-encryption-aws-kms-key-id"):
            if name in request.headers:
                meta[name] = request.headers[name]
        return meta

    def put(self, request: Request, bucket: Bucket) -> Answer:
        if request.query:
            names = {name for name, _ in decoded_query(request.query)}
            if names & {b"acl", b"tagging"}:
                return Answer(200)
        try:
            request.key.decode("utf-8")
            data = self.body_of(request)
        except UnicodeDecodeError:
            return self.error(request, 400, "InvalidURI")
        except ValueError:
            return self.error(request, 400, "IncompleteBody")
        declared = request.headers.get(b"content-md5")
        if declared is not None and b64encode(hashlib.md5(data).digest()) != declared:
            return self.error(request, 400, "BadDigest")
        refused = self.condition(request, bucket)
        if refused is not None:
            return refused
        meta = self.meta_of(request)
        if bucket.encryption and b"x-amz-server-side-encryption" not in meta:
            meta[b"x-amz-server-side-encryption"] = bucket.encryption.encode()
        made = bucket.put(request.key, data, meta, **self.said(request))
        return Answer(200, self.written(made))

    def written(self, made: Object) -> bytes:
        lines = f'ETag: "{made.etag}"\r\n'.encode()
        if made.version_id != "null":
            lines += b"x-amz-version-id: " + made.version_id.encode() + b"\r\n"
        for name, value in made.meta.items():
            if name.startswith(b"x-amz-server-side"):
                lines += name + b": " + value + b"\r\n"
        return lines

    def delete(self, request: Request, bucket: Bucket) -> Answer:
        refused = self.condition(request, bucket, deleting=True)
        if refused is not None:
            return refused
        bucket.delete(request.key, **self.said(request))
        if not bucket.versioned:
            return Answer(204)
        bucket.sequence += 1
        return Answer(204, b"x-amz-delete-marker: true\r\nx-amz-version-id: v%012d\r\n" % bucket.sequence)

    def copy(self, request: Request, bucket: Bucket) -> Answer:
        found = self.copy_source(request)
        if found is None:
            return self.error(request, 404, "NoSuchKey")
        refused = self.condition(request, bucket)
        if refused is not None:
            return refused
        replace = request.headers.get(b"x-amz-metadata-directive", b"").upper() == b"REPLACE"
        meta = self.meta_of(request) if replace else found.meta
        made = bucket.put(request.key, found.data, meta, etag=found.etag, **self.said(request))
        return Answer(200, XML_TYPE, XML + _copied(b"CopyObjectResult", made))

    def copy_source(self, request: Request) -> Object | None:
        source = unquote_to_bytes(request.headers[b"x-amz-copy-source"].partition(b"?")[0]).lstrip(b"/")
        name, _, key = source.partition(b"/")
        bucket = self.buckets.get(name.decode("utf-8", "replace"))
        return bucket.objects.get(key) if bucket else None

    def multipart(self, request: Request, bucket: Bucket) -> Answer:
        query = dict(decoded_query(request.query))
        if b"uploads" in query:
            upload_id = uuid.uuid4().hex
            bucket.uploads[upload_id] = {"key": request.key, "meta": self.meta_of(request), "parts": {}}
            return Answer(200, XML_TYPE, XML + _fields(b"InitiateMultipartUploadResult", request, UploadId=upload_id))
        upload_id = query[b"uploadId"].decode("latin-1")
        upload = bucket.uploads.get(upload_id)
        if upload is None:
            return self.error(request, 404, "NoSuchUpload")
        if request.method == "DELETE":
            del bucket.uploads[upload_id]
            return Answer(204)
        if request.method == "PUT":
            number = int(query[b"partNumber"])
            if b"x-amz-copy-source" in request.headers:
                found = self.copy_source(request)
                if found is None:
                    return self.error(request, 404, "NoSuchKey")
                span = request.headers.get(b"x-amz-copy-source-range", b"").partition(b"=")[2]
                first, _, last = span.partition(b"-")
                part = found.data[int(first) : int(last) + 1] if span else found.data
                upload["parts"][number] = part
                made = Object(b"", part, hashlib.md5(part).hexdigest(), int(time.time()), "null", {})
                return Answer(200, XML_TYPE, XML + _copied(b"CopyPartResult", made))
            part = upload["parts"][number] = self.body_of(request)
            return Answer(200, f'ETag: "{hashlib.md5(part).hexdigest()}"\r\n'.encode())
        if request.method == "POST":
            return self.complete(request, bucket, upload_id, upload)
        return Answer(200, XML_TYPE, XML + _fields(b"ListPartsResult", request, UploadId=upload_id))

    def complete(self, request: Request, bucket: Bucket, upload_id: str, upload: dict[str, Any]) -> Answer:
        refused = self.condition(request, bucket)
        if refused is not None:
            return refused
        parts = [upload["parts"][number] for number in sorted(upload["parts"])]
        digests = b"".join(hashlib.md5(part).digest() for part in parts)
        etag = f"{hashlib.md5(digests).hexdigest()}-{len(parts)}"
        made = bucket.put(request.key, b"".join(parts), upload["meta"], etag=etag, **self.said(request))
        del bucket.uploads[upload_id]
        return Answer(200, XML_TYPE, XML + _fields(b"CompleteMultipartUploadResult", request, ETag=f'"{made.etag}"'))

    # Buckets

    def list_buckets(self, request: Request) -> Answer:
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        rows = b"".join(
            f"<Bucket><Name>{name}</Name><CreationDate>{when}</CreationDate></Bucket>".encode() for name in self.buckets
        )
        owner = b"<Owner><ID>bench</ID><DisplayName>bench</DisplayName></Owner>"
        body = (
            b"<ListAllMyBucketsResult"
            + NS
            + b">"
            + owner
            + b"<Buckets>"
            + rows
            + b"</Buckets></ListAllMyBucketsResult>"
        )
        return Answer(200, XML_TYPE, XML + body)

    def bucket_request(self, request: Request, bucket: Bucket) -> Answer:
        names = {name for name, _ in decoded_query(request.query)}
        if request.method == "POST" and b"delete" in names:
            return self.delete_many(request, bucket)
        if request.method == "HEAD":
            return Answer(200, b"x-amz-bucket-region: " + self.region.encode() + b"\r\n")
        if request.method == "PUT":
            if b"versioning" in names:
                bucket.versioned = b"Enabled" in request.body
            return Answer(200)
        if request.method == "DELETE":
            if bucket.objects:
                return self.error(request, 409, "BucketNotEmpty")
            del self.buckets[bucket.name]
            return Answer(204)
        if b"location" in names:
            region = "" if self.region == "us-east-1" else self.region
            return Answer(
                200, XML_TYPE, XML + f"<LocationConstraint{NS.decode()}>{region}</LocationConstraint>".encode()
            )
        if b"versioning" in names:
            status = b"<Status>Enabled</Status>" if bucket.versioned else b""
            return Answer(
                200, XML_TYPE, XML + b"<VersioningConfiguration" + NS + b">" + status + b"</VersioningConfiguration>"
            )
        if b"encryption" in names:
            return self.encryption(request, bucket)
        if b"acl" in names:
            return Answer(200, XML_TYPE, XML + ACL)
        if b"uploads" in names:
            return Answer(
                200,
                XML_TYPE,
                XML
                + b"<ListMultipartUploadsResult"
                + NS
                + b"><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
            )
        return self.error(request, 404, "NoSuchConfiguration")

    def encryption(self, request: Request, bucket: Bucket) -> Answer:
        if not bucket.encryption:
            return self.error(request, 404, "ServerSideEncryptionConfigurationNotFoundError")
        rule = (
            "<Rule><ApplyServerSideEncryptionByDefault>"
            f"<SSEAlgorithm>{bucket.encryption}</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule>"
        )
        body = f"<ServerSideEncryptionConfiguration{NS.decode()}>{rule}</ServerSideEncryptionConfiguration>"
        return Answer(200, XML_TYPE, XML + body.encode())

    def delete_many(self, request: Request, bucket: Bucket) -> Answer:
        rows = []
        for thing in ET.fromstring(self.body_of(request)).iter():
            if thing.tag.rpartition("}")[2] == "Key":
                key = (thing.text or "").encode()
                bucket.delete(key, **self.said(request))
                rows.append(b"<Deleted><Key>" + listed(key, url=False) + b"</Key></Deleted>")
        return Answer(200, XML_TYPE, XML + b"<DeleteResult" + NS + b">" + b"".join(rows) + b"</DeleteResult>")

    def list_objects(self, request: Request, bucket: Bucket) -> Answer:
        query = dict(_form(request.query))
        second = query.get(b"list-type") == b"2"
        url = query.get(b"encoding-type") == b"url"
        prefix, delimiter = query.get(b"prefix", b""), query.get(b"delimiter", b"")
        try:
            limit = min(int(query.get(b"max-keys", b"1000")), 1000)
            token = query.get(b"continuation-token", b"").decode("latin-1")
            after = after_of(token) if token else query.get(b"start-after" if second else b"marker", b"")
        except ValueError:
            return self.error(request, 400, "InvalidArgument")
        page = bucket.page(prefix, delimiter, after, limit)
        owner = not second or query.get(b"fetch-owner") == b"true"
        parts = [
            XML + b"<ListBucketResult" + NS + b"><Name>" + bucket.name.encode() + b"</Name>",
            b"<Prefix>" + listed(prefix, url=url) + b"</Prefix>",
            b"<MaxKeys>%d</MaxKeys>" % limit,
            b"<IsTruncated>%b</IsTruncated>" % (b"false" if page.next_after is None else b"true"),
        ]
        if delimiter:
            parts.append(b"<Delimiter>" + listed(delimiter, url=url) + b"</Delimiter>")
        if url:
            parts.append(b"<EncodingType>url</EncodingType>")
        if second:
            parts.append(b"<KeyCount>%d</KeyCount>" % (len(page.objects) + len(page.groups)))
            if token:
                parts.append(b"<ContinuationToken>" + token.encode() + b"</ContinuationToken>")
            elif after:
                parts.append(b"<StartAfter>" + listed(after, url=url) + b"</StartAfter>")
            if page.next_after is not None:
                parts.append(
                    b"<NextContinuationToken>" + token_of(page.next_after).encode() + b"</NextContinuationToken>"
                )
        else:
            parts.append(b"<Marker>" + listed(after, url=url) + b"</Marker>")
            if page.next_after is not None and delimiter:
                parts.append(b"<NextMarker>" + listed(page.next_after, url=url) + b"</NextMarker>")
        parts += [found.entry(url=url, owner=owner) for found in page.objects]
        parts += [b"<CommonPrefixes><Prefix>" + listed(g, url=url) + b"</Prefix></CommonPrefixes>" for g in page.groups]
        parts.append(b"</ListBucketResult>")
        return Answer(200, XML_TYPE, b"".join(parts))

    def empty_listing(self, request: Request) -> Answer:
        prefix = dict(decoded_query(request.query)).get(b"prefix", b"")
        body = (
            XML + b"<ListBucketResult" + NS + b"><Name>" + request.bucket.encode() + b"</Name><Prefix>"
            + listed(prefix, url=True) + b"</Prefix><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys>"
            b"<IsTruncated>false</IsTruncated></ListBucketResult>"
        )  # fmt: skip
        return Answer(200, XML_TYPE, body)


XML_TYPE = b"Content-Type: application/xml\r\n"
SUBRESOURCES = {
    b"location", b"versioning", b"encryption", b"acl", b"uploads", b"policy", b"lifecycle", b"cors", b"tagging",
    b"object-lock", b"publicAccessBlock", b"ownershipControls", b"logging", b"notification", b"replication", b"website",
    b"requestPayment", b"accelerate", b"policyStatus", b"versions", b"delete",
}  # fmt: skip
ACL = (
    b"<AccessControlPolicy" + NS + b"><Owner><ID>bench</ID></Owner><AccessControlList><Grant>"
    b'<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>bench</ID></Grantee>'
    b"<Permission>FULL_CONTROL</Permission></Grant></AccessControlList></AccessControlPolicy>"
)


def _form(query: bytes) -> list[tuple[bytes, bytes]]:
    """Decode the query of a listing as forms are decoded: a bare `+` is a space, `%2B` a plus."""
    return decoded_query(query.replace(b"+", b"%20"))


def _copied(tag: bytes, made: Object) -> bytes:
    when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(made.modified_s)).encode()
    inner = b"<LastModified>" + when + b"</LastModified><ETag>&quot;" + made.etag.encode() + b"&quot;</ETag>"
    return b"<" + tag + NS + b">" + inner + b"</" + tag + b">"


def _fields(tag: bytes, request: Request, **more: str) -> bytes:
    rows = b"".join(f"<{name}>{value.replace(chr(34), '&quot;')}</{name}>".encode() for name, value in more.items())
    bucket, key = request.bucket.encode(), listed(request.key, url=False)
    return b"<" + tag + NS + b"><Bucket>" + bucket + b"</Bucket><Key>" + key + b"</Key>" + rows + b"</" + tag + b">"
