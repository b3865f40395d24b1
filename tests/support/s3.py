"""How do tests make a driver of S3, and the answers it gets?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import Answer, Key, Request
from kopsfs.store.s3 import S3Driver
from kopsfs.store.url import Location, Settings

CUSTOM = {"S3_ENDPOINT": "http://127.0.0.1:9000", "S3_ACCESS_KEY_ID": "AKID", "S3_SECRET_ACCESS_KEY": "hush-hush"}
AWS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "hush-hush", "AWS_REGION": "us-east-1"}
KEY = Key("c.example.com/config")


def driver_of(environ: Mapping[str, str], scheme: str = "s3", bucket: str = "state", **settings: Any) -> S3Driver:
    settings.setdefault("sse", "none")
    return S3Driver(Location(scheme=scheme, bucket=bucket), Settings(environ=environ, **settings))


def headers_of(request: Request) -> dict[str, str]:
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in request.headers)}


def error_answer(status: int, code: str, extra: str = "", **headers: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>words</Message>{extra}</Error>" if code else ""
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


def sent(driver: S3Driver, request: Request) -> Answer:
    return fetch(request, Options.read({}))
