"""Is the S3 server of the benches one that tests may believe?

One server process for the file, a bucket of its own per test, and a client made of `http.client` alone,
so that nothing between test and wire tidies a key up. Signatures are made by botocore.
"""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree as ET

import pytest

from tests.bench.s3server import ACCESS_KEY, SECRET_KEY, Server

ODD_KEYS = [
    "a//b", "//x", "/lead", "a/", "a", ".", "..", "a/../b", "x/./y", "tab\t", "new\nline", "\x01", "\x7f", "sp ace", "plus+",
    "pct%41", "pct%2F", "pct%", "q?x", "h#x", "st*r", "back\\slash", "~", "co:lon", "@", ",", ";", "eq=", "a&b<c>", "$", "()",
    "!", "'", '"', "é", "e\u0301", "日本", "😀", "*.swp", "x" * 255, "y/" * 511 + "zz",
]  # fmt: skip


class Client:
    """One connection; requests as they are written."""

    def __init__(self, server: Server, bucket: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.bucket = bucket

    def ask(
        self, method: str, key: str = "", query: str = "", body: bytes = b"", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        path = f"/{self.bucket}/{quote(key, safe='/')}" + (f"?{query}" if query else "")
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body or None, lines)
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def status(self, *args: str, **kwargs: str) -> int:
        return self.ask(*args, **kwargs)[0]  # type: ignore[arg-type]

    def page(self, query: str) -> tuple[list[str], list[str], str]:
        """Give keys, groups and token of one V2 page."""
        status, _, body = self.ask("GET", query="list-type=2&encoding-type=url&" + query)
        assert status == 200, body
        root = ET.fromstring(body)
        space = {"s": "http://s3.amazonaws.com/doc/2006-03-01/"}
        keys = [unquote_plus(found.text or "") for found in root.findall("s:Contents/s:Key", space)]
        groups = [unquote_plus(found.text or "") for found in root.findall("s:CommonPrefixes/s:Prefix", space)]
        return keys, groups, root.findtext("s:NextContinuationToken", "", space)

    def pages(self, query: str) -> list[tuple[list[str], list[str]]]:
        found = []
        token = ""
        while True:
            keys, groups, token = self.page(query + (f"&continuation-token={quote(token)}" if token else ""))
            assert (keys, groups) not in found, "the same page twice"
            found.append((keys, groups))
            if not token:
                return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    name = request.node.name.replace("_", "-").partition("[")[0]
    server.wipe(name)
    server.set(reset=True, quirks=[], clear_faults=True, delay=0)
    made = Client(server, name)
    yield made
    made.connection.close()


def test_every_key_comes_back_byte_for_byte_and_in_byte_order(client: Client, server: Server) -> None:
    for key in ODD_KEYS:
        assert client.status("PUT", key, body=key.encode()) == 200, key  # type: ignore[arg-type]
    for key in ODD_KEYS:
        assert client.ask("GET", key)[2] == key.encode()
    expected = sorted(ODD_KEYS, key=str.encode)
    assert client.page("")[0] == expected
    assert list(server.keys(client.bucket)) == expected


def test_a_key_that_is_too_long_or_not_utf8_is_refused(client: Client) -> None:
    assert client.status("PUT", "k" * 1025) == 400
    client.connection.request("PUT", f"/{client.bucket}/%ff", b"x")
    answer = client.connection.getresponse()
    assert (answer.status, b"InvalidURI" in answer.read()) == (400, True)


def test_conditions_compare_before_they_swap(client: Client) -> None:
    assert client.status("PUT", "k", If_Match='"0"') == 404
    status, headers, _ = client.ask("PUT", "k", body=b"one", If_None_Match="*")
    assert status == 200
    tag = headers["ETag"]
    assert tag == f'"{hashlib.md5(b"one").hexdigest()}"'
    assert client.status("PUT", "k", If_None_Match="*") == 412
    assert client.status("PUT", "k", If_Match='"wrong"') == 412
    assert client.ask("GET", "k")[2] == b"one"
    assert client.ask("PUT", "k", body=b"two", If_Match=tag)[0] == 200
    assert client.status("DELETE", "k", If_Match=tag) == 412
    assert client.status("GET", "k", If_Match=tag) == 412
    new = f'"{hashlib.md5(b"two").hexdigest()}"'
    assert client.status("GET", "k", If_None_Match=new) == 304
    assert client.status("DELETE", "k", If_Match=new) == 204
    assert client.status("DELETE", "k") == 204
    assert client.status("GET", "k") == 404


@pytest.mark.parametrize("condition", ["create", "replace", "delete"])
def test_of_forty_writers_exactly_one_wins(client: Client, server: Server, condition: str) -> None:
    server.delete(client.bucket, "k")
    headers = {"If-None-Match": "*"} if condition == "create" else {}
    if condition != "create":
        headers = {"If-Match": f'"{server.put(client.bucket, "k", b"base")}"'}
    server.set(delay=0.02)
    statuses: list[int] = []
    barrier = threading.Barrier(40)

    def write(number: int) -> None:
        mine = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        mine.connect()
        barrier.wait()
        mine.request("DELETE" if condition == "delete" else "PUT", f"/{client.bucket}/k", b"%d" % number, headers)
        answer = mine.getresponse()
        answer.read()
        statuses.append(answer.status)
        mine.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [status for status in statuses if status < 300]
    assert (len(won), len(statuses)) == (1, 40)
    assert {status for status in statuses if status >= 300} <= {412, 404}
    accepted = [row for row in server.writes(client.bucket, "k") if row["agent"] != "another client"]
    assert len(accepted) == 1


def test_the_history_of_writes_names_base_and_bytes(client: Client, server: Server) -> None:
    first = server.put(client.bucket, "k", b"theirs")
    assert client.ask("PUT", "k", body=b"mine", If_Match=f'"{first}"')[0] == 200
    assert client.ask("PUT", "k", body=b"late", If_Match=f'"{first}"')[0] == 412
    rows = server.writes(client.bucket, "k")
    mine = hashlib.md5(b"mine").hexdigest()
    assert [(row["verb"], row["before"], row["etag"], row["if_match"]) for row in rows] == [
        ("PUT", None, first, ""),
        ("PUT", first, mine, f'"{first}"'),
    ]


def test_pages_hold_at_most_a_thousand_and_continue_where_they_ended(client: Client, server: Server) -> None:
    keys = [f"d/{number:04d}" for number in range(2100)]
    server.load(client.bucket, dict.fromkeys(keys, b"x"))
    assert [len(page) for page, _ in client.pages("max-keys=5000")] == [1000, 1000, 100]
    assert list(chain(*(page for page, _ in client.pages("max-keys=700")))) == keys
    assert client.page("start-after=d/2097")[0] == ["d/2098", "d/2099"]
    assert client.page("prefix=d/209&max-keys=3")[0] == ["d/2090", "d/2091", "d/2092"]


def test_groups_are_made_at_the_delimiter_and_never_repeated(client: Client, server: Server) -> None:
    keys = ["a", "a/", "a/b", "a//b", "a/c/d", "b/1", "b/2", "c", "d e/x", "日/本"]
    server.load(client.bucket, dict.fromkeys(keys, b"x"))
    assert client.page("delimiter=/")[:2] == (["a", "c"], ["a/", "b/", "d e/", "日/"])
    assert client.page("delimiter=/&prefix=a/")[:2] == (["a/", "a/b"], ["a//", "a/c/"])
    for size in (1, 2, 3):
        pages = client.pages(f"delimiter=/&max-keys={size}")
        assert list(chain(*(groups for _, groups in pages))) == ["a/", "b/", "d e/", "日/"]
        assert list(chain(*(found for found, _ in pages))) == ["a", "c"]


def test_v1_listings_continue_from_a_marker(client: Client, server: Server) -> None:
    server.load(client.bucket, dict.fromkeys(["a/1", "a/2", "b/1", "c"], b"x"))
    first = client.ask("GET", query="delimiter=/&max-keys=2")[2]
    assert b"<NextMarker>b/</NextMarker>" in first
    second = client.ask("GET", query="delimiter=/&max-keys=2&marker=b/")[2]
    assert b"<Key>c</Key>" in second
    assert b"b/1" not in second


def test_ranges_are_cut_as_rfc_9110_says(client: Client) -> None:
    assert client.ask("PUT", "k", body=b"0123456789")[0] == 200
    for span, expected in (("0-0", b"0"), ("3-", b"3456789"), ("-3", b"789"), ("8-99", b"89")):
        status, headers, body = client.ask("GET", "k", Range=f"bytes={span}")
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith("/10")
    assert client.status("GET", "k", Range="bytes=10-") == 416


def test_bodies_arrive_whole_however_they_are_framed(client: Client) -> None:
    data = bytes(range(256)) * 1200
    client.connection.request("PUT", f"/{client.bucket}/chunked", iter([data[:1000], data[1000:]]), encode_chunked=True)
    assert client.connection.getresponse().read() == b""
    assert client.ask("GET", "chunked")[2] == data
    inner = b"%x;chunk-signature=0\r\n%b\r\n0;chunk-signature=0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n" % (
        len(data),
        data,
    )
    status, _, _ = client.ask(
        "PUT",
        "aws",
        body=inner,
        x_amz_content_sha256="STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        content_encoding="aws-chunked",
    )
    assert status == 200
    _, headers, body = client.ask("GET", "aws")
    assert (body, headers["Content-Encoding"]) == (data, None)


def test_a_body_that_is_not_its_md5_is_refused(client: Client) -> None:
    assert client.ask("PUT", "k", body=b"x", Content_MD5="AAAAAAAAAAAAAAAAAAAAAA==")[0] == 400
    assert client.status("HEAD", "k") == 404


def test_metadata_and_copies_keep_what_they_should(client: Client) -> None:
    assert client.ask("PUT", "k", body=b"x", x_amz_meta_mtime="12.5")[0] == 200
    source = f"/{client.bucket}/k"
    assert client.status("PUT", "c", x_amz_copy_source=source) == 200
    status, headers, _ = client.ask("HEAD", "c")
    assert (status, headers["x-amz-meta-mtime"], headers["Content-Length"]) == (200, "12.5", "1")


def test_parts_make_one_object(client: Client) -> None:
    body = client.ask("POST", "big", "uploads")[2]
    upload = ET.fromstring(body).findtext("{*}UploadId")
    for number, part in ((2, b"two"), (1, b"one")):
        assert client.ask("PUT", "big", f"partNumber={number}&uploadId={upload}", part)[0] == 200
    assert client.ask("POST", "big", f"uploadId={upload}", b"<x/>")[0] == 200
    status, headers, body = client.ask("GET", "big")
    assert (status, body, headers["ETag"][-3:]) == (200, b"onetwo", '-2"')


def test_requests_are_counted_by_verb(client: Client, server: Server) -> None:
    server.reset()
    client.ask("PUT", "k", body=b"x")
    client.status("GET", "k")
    client.status("HEAD", "k")
    client.page("")
    client.status("DELETE", "k")
    client.status("GET", query="location")
    assert server.requests() == {"put": 1, "get": 1, "head": 1, "list": 1, "delete": 1, "other": 1}


def test_every_answer_waits_for_the_delay(client: Client, server: Server) -> None:
    server.set(delay=0.05)
    started = time.monotonic()
    client.status("GET", "nothing")
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("kind", ["refuse", "lost", "truncate"])
def test_a_fault_hits_as_many_requests_as_it_says(client: Client, server: Server, kind: str) -> None:
    client.ask("PUT", "k", body=b"x" * 1000)
    server.fault(kind, count=1, verb="get", skip=1)
    assert client.ask("GET", "k")[2] == b"x" * 1000
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        client.ask("GET", "k")
    client.connection.close()
    assert client.ask("GET", "k")[2] == b"x" * 1000


def test_a_lost_reply_has_acted(client: Client, server: Server) -> None:
    server.fault("lost", verb="put")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        client.ask("PUT", "k", body=b"x")
    client.connection.close()
    assert server.get(client.bucket, "k") == b"x"


def test_a_refused_request_has_not_acted(client: Client, server: Server) -> None:
    server.fault("status", count=2, verb="put", status=503, headers="Retry-After: 1\r\n")
    status, headers, body = client.ask("PUT", "k", body=b"x")
    assert (status, headers["Retry-After"], b"<Code>SlowDown</Code>" in body) == (503, "1", True)
    assert client.status("PUT", "k") == 503
    with pytest.raises(KeyError):
        server.get(client.bucket, "k")
    assert client.ask("PUT", "k", body=b"x")[0] == 200


def test_a_hanging_request_is_never_answered(client: Client, server: Server) -> None:
    server.fault("hang", verb="get")
    client.connection.timeout = 0.2
    with pytest.raises(TimeoutError):
        client.status("GET", "k")


def test_listings_can_lie(client: Client, server: Server) -> None:
    server.put(client.bucket, "k", b"x")
    server.fault("empty-list", count=1)
    assert client.page("")[0] == []
    assert client.page("")[0] == ["k"]


def test_a_store_that_is_down_refuses_connections_and_comes_back_as_it_was(client: Client, server: Server) -> None:
    server.put(client.bucket, "k", b"x")
    client.status("GET", "k")
    server.down()
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        client.status("GET", "k")
    client.connection.close()
    with pytest.raises(ConnectionRefusedError):
        client.status("GET", "k")
    client.connection.close()
    server.up()
    assert client.ask("GET", "k")[2] == b"x"


def test_quirks_are_those_of_other_stores(client: Client, server: Server) -> None:
    tag = server.put(client.bucket, "k", b"x")
    server.set(quirks=["ignore-if-match", "ignore-if-none-match", "ignore-delete-if-match"])
    assert client.status("PUT", "k", If_Match='"wrong"') == 200
    assert client.status("PUT", "k", If_None_Match="*") == 200
    assert client.status("DELETE", "k", If_Match='"wrong"') == 204
    server.put(client.bucket, "k", b"x")
    server.set(quirks=["unquoted-if-match"])
    assert client.status("PUT", "k", If_Match=f'"{tag}"') == 412
    assert client.ask("PUT", "k", body=b"x", If_Match=tag)[0] == 200
    server.set(quirks=["501-if-match"])
    assert client.status("PUT", "k", If_Match=tag) == 501
    server.set(quirks=["read-only"])
    assert (client.status("PUT", "k"), client.status("GET", "k")) == (403, 200)


def test_a_versioned_bucket_says_so(client: Client, server: Server) -> None:
    server.set(versioned={client.bucket: True})
    assert client.ask("PUT", "k", body=b"x")[1]["x-amz-version-id"].startswith("v")
    assert client.ask("DELETE", "k")[1]["x-amz-delete-marker"] == "true"
    server.set(versioned={client.bucket: False})
    assert client.ask("PUT", "k", body=b"x")[1]["x-amz-version-id"] is None


def test_only_our_own_signature_is_accepted_when_it_is_checked() -> None:
    boto3 = pytest.importorskip("boto3")
    config = boto3.session.Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    with Server(verify_signature=True, buckets=["b"]) as strict:
        made = [
            boto3.client(
                "s3",
                endpoint_url=strict.url,
                region_name="us-east-1",
                aws_access_key_id=name,
                aws_secret_access_key=secret,
                config=config,
            )
            for name, secret in ((ACCESS_KEY, SECRET_KEY), (ACCESS_KEY, "wrong"), ("nobody", SECRET_KEY))
        ]
        right, wrong, unknown = made
        for key in ODD_KEYS:
            right.put_object(Bucket="b", Key=key, Body=key.encode())
        assert [row["Key"] for row in right.list_objects_v2(Bucket="b")["Contents"]] == sorted(ODD_KEYS, key=str.encode)
        with pytest.raises(right.exceptions.ClientError, match="SignatureDoesNotMatch"):
            wrong.list_objects_v2(Bucket="b")
        with pytest.raises(right.exceptions.ClientError, match="InvalidAccessKeyId"):
            unknown.list_objects_v2(Bucket="b")
        anonymous = Client(strict, "b")
        assert anonymous.status("GET", "a") == 403
        anonymous.connection.close()
        for client in made:
            client.close()


def test_the_server_ends_with_the_process_that_started_it() -> None:
    server = Server().start()
    process = server.process
    assert process is not None
    server.stop()
    assert process.returncode == 0


def test_no_file_of_the_server_is_imported_by_the_product() -> None:
    for path in (Path(__file__).resolve().parents[2] / "kopsfs").rglob("*.py"):
        assert "tests.bench" not in path.read_text(), path
