"""Does a rewrite keep what the store knows of an object beyond its bytes? Against moto, with `--keep-metadata` and without."""

from __future__ import annotations

import boto3
import pytest
import trio

from kopsfs.store import Key, open_store
from tests.store.servers import S3Server


@pytest.mark.real
@pytest.mark.parametrize("keep", [True, False])
def test_a_rewrite_keeps_metadata_when_asked(moto: S3Server, *, keep: bool) -> None:
    bucket, key = moto.new_bucket(), Key("c1/config")
    client = boto3.client(
        "s3",
        endpoint_url=moto.environment["S3_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=moto.environment["S3_ACCESS_KEY_ID"],
        aws_secret_access_key=moto.environment["S3_SECRET_ACCESS_KEY"],
    )
    client.put_object(Bucket=bucket, Key=key, Body=b"old", ContentType="text/yaml", Metadata={"owner": "ops"})

    async def rewrite() -> int:
        store = open_store(f"s3://{bucket}", environ=moto.environment, keep_metadata=keep)
        try:
            info = await store.head(key)
            asked = store.requests["head"]
            await store.put(key, b"new", 3, expected=info.version)
            return store.requests["head"] - asked
        finally:
            await store.aclose()

    heads = trio.run(rewrite)
    after = client.head_object(Bucket=bucket, Key=key)
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"new"
    assert (after["Metadata"] == {"owner": "ops"}) is keep
    assert (after["ContentType"] == "text/yaml") is keep
    assert heads >= keep
