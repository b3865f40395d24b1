"""What of the S3 driver can only a server prove?

Rights, encryption, a missing bucket, a wrong clock: on Ceph (checks signatures), moto and s3rver. The contract
itself is `test_contract.py`'s.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest

from kopsfs import errors
from kopsfs.errors import DeniedError, TransientError
from kopsfs.store.driver import ABSENT, ANY, Prefix
from kopsfs.store.rest import HASHED_MAX
from kopsfs.store.s3 import S3Driver
from tests.store.servers import S3Server
from tests.support.s3 import KEY, driver_of, headers_of, sent


@pytest.mark.real
def test_wrong_secrets_and_other_peoples_buckets_are_denied(ceph: S3Server) -> None:
    bucket = ceph.new_bucket()
    assert ceph.other is not None
    strangers = [
        {"S3_SECRET_ACCESS_KEY": "wrong"},
        {"S3_ACCESS_KEY_ID": "nobody"},
        {"S3_ACCESS_KEY_ID": ceph.other[0], "S3_SECRET_ACCESS_KEY": ceph.other[1]},
    ]
    for stranger in strangers:
        driver = driver_of({**ceph.environment, **stranger}, bucket=bucket)
        with pytest.raises(DeniedError):
            driver.parse_put(KEY, 1, sent(driver, driver.prepare_put(KEY, b"x", 1, expected=ANY)))
        with pytest.raises(DeniedError):
            list_of(driver)


def list_of(driver: S3Driver) -> Any:
    request = driver.prepare_list(Prefix(""), delimiter=False, token=None, start_after=None)
    return driver.parse_list(Prefix(""), sent(driver, request))


@pytest.mark.real
@pytest.mark.parametrize("name", ["ceph", "moto", "s3rver"])
def test_a_missing_bucket_is_a_store_that_is_gone(name: str, start_server: Callable[[str], S3Server]) -> None:
    driver = driver_of(start_server(name).environment, bucket="never-made")
    with pytest.raises(errors.StoreGoneError):
        list_of(driver)
    with pytest.raises(errors.StoreGoneError):
        driver.parse_get(KEY, sent(driver, driver.prepare_get(KEY)))
    with pytest.raises(errors.StoreGoneError):
        driver.parse_put(KEY, 1, sent(driver, driver.prepare_put(KEY, b"x", 1, expected=ANY)))


_RULE = (
    b'<ServerSideEncryptionConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Rule>'
    b"<ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm></ApplyServerSideEncryptionByDefault>"
    b"</Rule></ServerSideEncryptionConfiguration>"
)


@pytest.mark.real
def test_a_buckets_own_encryption_is_left_alone(moto: S3Server) -> None:
    plain, encrypted = moto.new_bucket(), moto.new_bucket()
    moto.call("PUT", f"/{encrypted}", "encryption=", _RULE)
    for bucket, header in ((plain, "AES256"), (encrypted, None)):
        driver = driver_of(moto.environment, bucket=bucket, sse="auto")
        driver.warm_up(writes=False)
        driver.warm_up()
        request = driver.prepare_put(KEY, b"abc", 3, expected=ANY)
        assert headers_of(request).get("x-amz-server-side-encryption") == header
        answer = sent(driver, request)
        info = driver.parse_put(KEY, 3, answer)
        assert (info.md5 is None) is (answer.headers.get("x-amz-server-side-encryption") == "aws:kms")


@pytest.mark.real
def test_kms_encryption_on_a_server_that_has_keys(ceph: S3Server) -> None:
    driver = driver_of(ceph.environment, bucket=ceph.new_bucket(), sse="aws:kms:kopsfs-test")
    info = driver.parse_put(KEY, 3, sent(driver, driver.prepare_put(KEY, b"abc", 3, expected=ANY)))
    assert info.md5 is None
    answer = sent(driver, driver.prepare_get(KEY))
    assert driver.parse_get(KEY, answer).version == info.version
    assert answer.body == b"abc"


@pytest.mark.real
def test_a_large_unsigned_body_arrives(ceph: S3Server) -> None:
    driver = driver_of(ceph.environment, bucket=ceph.new_bucket())
    data = bytes(range(256)) * 20_000
    assert len(data) > HASHED_MAX
    info = driver.parse_put(
        KEY, len(data), sent(driver, driver.prepare_put(KEY, io.BytesIO(data), len(data), expected=ABSENT))
    )
    assert info.md5 == hashlib.md5(data).hexdigest()
    assert sent(driver, driver.prepare_get(KEY)).body == data


@pytest.mark.real
def test_a_wrong_clock_is_corrected_by_a_real_server(ceph: S3Server) -> None:
    bucket = ceph.new_bucket()
    driver = driver_of(ceph.environment, bucket=bucket)
    driver._learn(skew_s=-7200.0)
    with pytest.raises(TransientError, match="clock"):
        list_of(driver)
    assert list_of(driver).objects == []
