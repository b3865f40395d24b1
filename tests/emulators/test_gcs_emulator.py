"""Does our emulator answer as another server of the same API does?

Method: a script of requests, written down here, is played to a server and what matters of each answer is kept. What
fake-gcs-server 1.56.1 answered is in `fake-gcs-server.json`; ours is played the same and must say the same, but for
DIFFERENCES, each with its reason. `KOPSFS_TEST_GS_EMULATOR=HOST:PORT KOPSFS_UPDATE_GOLDEN=1` records it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import Answer, Request
from tests.emulators.gcs import Server

RECORDED = Path(__file__).with_name("fake-gcs-server.json")

EMPTY = "204 and no body, as the JSON API's reference has it; our driver takes 200, too"
DIFFERENCES: dict[str, tuple[str, Any]] = {
    "media at a wrong generation": ('"Preconditions": 412', {"status": 412}),
    "delete at a wrong generation": ('"Preconditions": 412; it does not look', {"status": 412}),
    "list a page on top": (
        '"Objects: list": maxResults counts items and prefixes; it cuts items only',
        {"status": 200, "items": [], "prefixes": ["d/"], "more": True},
    ),
    "delete at its generation": (EMPTY, {"status": 204}),
    "delete": (EMPTY, {"status": 204}),
    "list what is left": (
        "it has deleted d/k at a wrong generation",
        {"status": 200, "items": ["d/k"], "prefixes": [], "more": False},
    ),
}
"""Step → (why, by which page of Google's, what ours says)."""

OBJECTS = "/storage/v1/b/{bucket}/o"
UPLOAD = "/upload/storage/v1/b/{bucket}/o?uploadType=multipart"

SCRIPT: list[tuple[str, str, str, str, bytes]] = [
    # (step, method, target, name in the body, bytes)
    ("create", "POST", UPLOAD + "&ifGenerationMatch=0", "d/k", b"one"),
    ("create again", "POST", UPLOAD + "&ifGenerationMatch=0", "d/k", b"two"),
    ("replace at a wrong generation", "POST", UPLOAD + "&ifGenerationMatch=1", "d/k", b"two"),
    ("replace what is absent", "POST", UPLOAD + "&ifGenerationMatch=1", "never", b"two"),
    ("replace", "POST", UPLOAD + "&ifGenerationMatch={d/k}", "d/k", b"two"),
    ("overwrite", "POST", UPLOAD, "d/k", b"three"),
    ("a name of many kinds", "POST", UPLOAD, "d/\u00e9 %41+?#&/x", b"odd"),
    ("a name on top", "POST", UPLOAD, "top", b""),
    ("head", "GET", OBJECTS + "/d%2Fk", "", b""),
    ("head of an odd name", "GET", OBJECTS + "/" + quote("d/\u00e9 %41+?#&/x", safe=""), "", b""),
    ("head of nothing", "GET", OBJECTS + "/never", "", b""),
    ("media", "GET", "/download" + OBJECTS + "/d%2Fk?alt=media", "", b""),
    ("media of no bytes", "GET", "/download" + OBJECTS + "/top?alt=media", "", b""),
    ("media of nothing", "GET", "/download" + OBJECTS + "/never?alt=media", "", b""),
    ("media at a wrong generation", "GET", "/download" + OBJECTS + "/d%2Fk?alt=media&ifGenerationMatch=1", "", b""),
    ("list", "GET", OBJECTS, "", b""),
    ("list a page", "GET", OBJECTS + "?maxResults=2", "", b""),
    ("list on top", "GET", OBJECTS + "?delimiter=%2F", "", b""),
    ("list a page on top", "GET", OBJECTS + "?delimiter=%2F&maxResults=1", "", b""),
    ("list a prefix", "GET", OBJECTS + "?prefix=d%2F&delimiter=%2F", "", b""),
    ("list from", "GET", OBJECTS + "?startOffset=d%2Fk%01", "", b""),
    ("list from a name that is there", "GET", OBJECTS + "?startOffset=d%2Fk", "", b""),
    ("list nothing", "GET", OBJECTS + "?prefix=never", "", b""),
    ("list no bucket", "GET", "/storage/v1/b/never-made/o", "", b""),
    ("create in no bucket", "POST", "/upload/storage/v1/b/never-made/o?uploadType=multipart", "k", b"x"),
    ("delete at a wrong generation", "DELETE", OBJECTS + "/d%2Fk?ifGenerationMatch=1", "", b""),
    ("delete at its generation", "DELETE", OBJECTS + "/top?ifGenerationMatch={top}", "", b""),
    ("delete nothing", "DELETE", OBJECTS + "/top", "", b""),
    ("delete", "DELETE", OBJECTS + "/" + quote("d/\u00e9 %41+?#&/x", safe=""), "", b""),
    ("list what is left", "GET", OBJECTS, "", b""),
]


def play(url: str, bucket: str) -> dict[str, Any]:
    """Send the script; give what matters of each answer."""
    made = json.dumps({"name": bucket}).encode()
    ask(url, "POST", "/storage/v1/b?project=p", "application/json", made)
    said: dict[str, Any] = {}
    generations: dict[str, str] = {}
    for step, method, target, name, data in SCRIPT:
        target = target.replace("{bucket}", bucket)
        for known, generation in generations.items():
            target = target.replace("{" + known + "}", generation)
        body = None
        if method == "POST":
            resource = json.dumps({"name": name}).encode()
            body = (
                b"--b\r\nContent-Type: application/json\r\n\r\n%b\r\n--b\r\nContent-Type: a/b\r\n\r\n%b\r\n--b--\r\n"
                % (
                    resource,
                    data,
                )
            )
        answer = ask(url, method, target, "multipart/related; boundary=b", body)
        said[step] = essence(answer)
        row = said[step].pop("generation", None)
        if row and method == "POST":
            generations[name] = row
    return said


def ask(url: str, method: Any, target: str, kind: str, body: bytes | None) -> Answer:
    headers = () if body is None else (f"Content-Type: {kind}",)
    return fetch(Request(method, url + target, headers, body, len(body or b"")), Options.read({}))


def essence(answer: Answer) -> dict[str, Any]:
    """Status, and of a success: an object's size and digest, bytes and their headers, the names of a listing."""
    said: dict[str, Any] = {"status": answer.status}
    if answer.status >= 300:
        return said
    if "x-goog-generation" in answer.headers:
        md5 = answer.headers.get("x-goog-hash", "").partition("md5=")[2].partition(",")[0]
        return {**said, "body": answer.body.decode(), "md5": md5, "length": answer.headers.get("content-length")}
    row = json.loads(answer.body or b"{}") or {}
    if row.get("kind") == "storage#objects":
        listed = {"items": [each["name"] for each in row.get("items", ())], "prefixes": row.get("prefixes", [])}
        return {**said, **listed, "more": bool(row.get("nextPageToken"))}
    return {**said, **{name: row[name] for name in ("name", "size", "md5Hash", "generation") if name in row}}


def test_the_emulator_says_what_fake_gcs_server_says() -> None:
    elsewhere = os.environ.get("KOPSFS_TEST_GS_EMULATOR")
    if elsewhere and os.environ.get("KOPSFS_UPDATE_GOLDEN"):
        recorded = play(f"http://{elsewhere}", f"recorded-{os.getpid()}")
        RECORDED.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
    recorded = json.loads(RECORDED.read_text())
    with Server() as server:
        ours = play(server.url, "state")
    assert list(ours) == list(recorded)
    differing = {step for step in ours if {**ours[step], "generation": 0} != {**recorded[step], "generation": 0}}
    assert {step: (recorded[step], ours[step]) for step in differing if step not in DIFFERENCES} == {}
    assert {step: ours[step] for step in DIFFERENCES} == {step: wanted for step, (_, wanted) in DIFFERENCES.items()}
    assert differing == DIFFERENCES.keys(), "a difference that is none any more"
