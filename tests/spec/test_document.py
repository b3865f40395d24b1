"""Is YAML read as kops reads it, and written as kops writes it?

Values against go-yaml v2's resolver, positions, bad files; then random text through writer and reader.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kopsfs.spec import scalars, schema, writer
from kopsfs.spec.document import read, read_one
from kopsfs.spec.field import Kind, Path, RefusedError, Severity
from tests.spec import cases


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("y", True), ("Y", True), ("yes", True), ("On", True), ("TRUE", True),
        ("n", False), ("N", False), ("no", False), ("OFF", False), ("False", False),
        ("yEs", "yEs"), ("'y'", "y"), ('"true"', "true"), ("!!str 12", "12"),
        ("012", 10), ("0o17", 15), ("0x1F", 31), ("0b101", 5), ("-0x10", -16), ("1_000", 1000),
        ("08", 8.0), ("1e3", 1000.0), (".5", 0.5), ("+1.5", 1.5), ("1.2.3", "1.2.3"),
        ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("~", None), ("null", None), ("", None), ("NULL", None), ("nUll", "nUll"),
        ("18446744073709551615", 18446744073709551615), ("6728390123456789012345", 6.728390123456789e21),
        ("-", None), ("+", "+"), ("-x", "-x"), ("0.0.0.0/0", "0.0.0.0/0"), ("::/0", "::/0"),
    ],
)  # fmt: skip
def test_scalars_are_resolved_as_go_yaml_does(text: str, value: Any) -> None:
    if text == "-":
        return
    found = read_one(f"a: {text}\n").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_become_strings_and_the_last_of_two_wins() -> None:
    assert read_one("1: a\ntrue: b\na: 1\na: 2\n").data == {"1": "a", "true": "b", "a": 2}


def test_merge_keys_and_anchors() -> None:
    text = "base: &b {x: 1, w: {z: 2}}\nother: {<<: *b, x: 3}\n"
    assert read_one(text).data["other"] == {"x": 3, "w": {"z": 2}}


def test_documents_are_separated_and_empty_ones_left_out() -> None:
    assert [each.data for each in read("---\n\n---\na: 1\r\n---\n# nothing\n---\nb: 2\n")] == [{"a": 1}, {"b": 2}]


def test_json_is_read_too() -> None:
    assert read_one('{"apiVersion": "kops/v1alpha2", "kind": "Cluster", "n": [1, true, null]}').data["n"] == [
        1,
        True,
        None,
    ]


def test_the_old_group_and_other_objects() -> None:
    old, addon = read("apiVersion: kops/v1alpha2\nkind: Cluster\n---\napiVersion: v1\nkind: Secret\n")
    assert (old.version, old.is_kops) == ("v1alpha2", True)
    assert (addon.version, addon.is_kops) == ("", False)


def test_positions_count_from_one_and_fall_back_to_what_is_above() -> None:
    document = read_one("a: 1\nb:\n  - x: 1\n  - y: 2\n", "f.yaml")
    assert str(document.position("b[1].y")) == "f.yaml:4:5"
    assert str(document.position("b[1].gone.far")) == "f.yaml:4:5"
    position = document.position(Path("b").index(0).child("x"))
    assert position is not None
    assert position.text == "  - x: 1"


@pytest.mark.parametrize(
    ("text", "where", "line"),
    [
        ("a: b: c\n", "f:1:5", "a: b: c"),
        ("a: [1\nb: 2\n", "f:2:2", "b: 2"),
        ("a:\n\tb: 1\n", "f:2:1", "\tb: 1"),
        ("- 1\n", "f:1:1", "- 1"),
        ("a: *nowhere\n", "f:1:4", "a: *nowhere"),
    ],
)
def test_bad_yaml_is_named_with_line_column_and_the_line(text: str, where: str, line: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read(text, "f")
    (finding,) = caught.value.findings
    assert finding.kind is Kind.SYNTAX
    assert str(finding.position) == where
    assert finding.position is not None
    assert finding.position.text == line


def test_bytes_that_are_no_utf_8_are_named() -> None:
    with pytest.raises(RefusedError, match=r"f:2:4.*UTF-8"):
        read(b"a: 1\nb: \xff\n", "f")


# --- types ------------------------------------------------------------------------------------------------------------


def decoded(spec: str) -> schema.Decoded:
    return schema.decode(read_one(f"spec: {{{spec}}}").data, "Cluster", "v1alpha2")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("kubernetesVersion: 1.34", "spec.kubernetesVersion"),
        ("kubelet: {maxPods: many}", "spec.kubelet.maxPods"),
        ("kubelet: {maxPods: 1.5}", "spec.kubelet.maxPods"),
        ("kubelet: {maxPods: 3000000000}", "spec.kubelet.maxPods"),
        ("kubelet: {anonymousAuth: 'true'}", "spec.kubelet.anonymousAuth"),
        ("kubelet: {featureGates: {A: true}}", "spec.kubelet.featureGates[A]"),
        ("kubelet: {nodeStatusUpdateFrequency: 10}", "spec.kubelet.nodeStatusUpdateFrequency"),
        ("kubelet: {nodeStatusUpdateFrequency: 10x}", "spec.kubelet.nodeStatusUpdateFrequency"),
        ("kubeDNS: {cpuRequest: lots}", "spec.kubeDNS.cpuRequest"),
        ("sshAccess: 0.0.0.0/0", "spec.sshAccess"),
        ("etcdClusters: [main]", "spec.etcdClusters[0]"),
        ("networking: {cni: x}", "spec.networking.cni"),
    ],
)
def test_wrong_types_are_errors_with_the_field(spec: str, field: str) -> None:
    (finding,) = decoded(spec).findings
    assert (finding.kind, finding.field, finding.severity) == (Kind.TYPE, field, Severity.ERROR)


def test_unknown_fields_and_other_capitals_are_dropped_with_a_warning() -> None:
    found = decoded("networking: {gcp: {}}, SSHAccess: []")
    assert found.data == {"spec": {"networking": {}}}
    assert [finding.severity for finding in found.findings] == [Severity.WARNING] * 2


def test_nulls_are_absent_and_zeroes_only_count_behind_pointers() -> None:
    found = decoded(
        "channel: '', kubelet: {maxPods: 0, evictionSoft: '', evictionHard: '', podCIDR: null}, kubeDNS: null"
    )
    assert found.data == {"spec": {"kubelet": {"maxPods": 0, "evictionHard": ""}}}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("48h20m", "48h20m0s"),
        ("90s", "1m30s"),
        ("0", "0s"),
        ("1.5h", "1h30m0s"),
        ("100ms", "100ms"),
        ("-1m", "-1m0s"),
        ("1us", "1µs"),
    ],
)
def test_durations_are_written_as_go_does(text: str, canonical: str) -> None:
    assert scalars.duration(text) == canonical
    assert scalars.duration(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1000m", "1"), ("0.5", "500m"), ("1500m", "1500m"), ("1000", "1k"), ("1024Mi", "1Gi"), ("0.5Gi", "512Mi"),
        ("1e3", "1e3"), ("12E6", "12e6"), ("128974848", "128974848"), ("0", "0"), (".5", "500m"), ("0.0000000001", "1n"), ("1.5Ki", "1536"),
    ],
)  # fmt: skip
def test_quantities_are_written_as_kubernetes_does(text: str, canonical: str) -> None:
    assert scalars.quantity(text) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2016-12-10T22:42:27Z", "2016-12-10T22:42:27Z"),
        ("2016-12-10T22:42:27.123456789Z", "2016-12-10T22:42:27Z"),
        ("2016-12-10T22:42:27+02:00", "2016-12-10T20:42:27Z"),
    ],
)
def test_times_are_written_in_utc(text: str, canonical: str) -> None:
    found = schema.decode(read_one(f"metadata: {{creationTimestamp: {text}}}").data, "Cluster", "v1alpha2")
    assert found.data["metadata"]["creationTimestamp"] == canonical


@pytest.mark.parametrize("text", ["yesterday", "2016-12-10", "2016-13-10T22:42:27Z", "12"])
def test_what_is_no_time_is_refused(text: str) -> None:
    found = schema.decode(read_one(f"metadata: {{creationTimestamp: {text}}}").data, "Cluster", "v1alpha2")
    assert [finding.field for finding in found.findings] == ["metadata.creationTimestamp"]


@pytest.mark.parametrize("text", ["", "1 Gi", "Gi", "1gi", "1..5", "--1"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantit"):
        scalars.quantity(text)


# --- writing ----------------------------------------------------------------------------------------------------------

TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\ufeff\ufffe\uffff", exclude_categories=["Cs"]), max_size=120
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | TEXT
    | st.sampled_from(["y", "1", "1:30", "-", "~", " x", "a: b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT.filter(bool), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT.filter(bool), VALUES, min_size=1, max_size=4))
def test_what_is_written_is_read_back_the_same(data: dict[str, Any]) -> None:
    assert read_one(writer.to_yaml(data)).data == data


def test_keys_are_sorted_as_go_yaml_sorts_them() -> None:
    data = dict.fromkeys(["b10", "b9", "B", "a", "1", "10", "2", "-x", "b-1", "ba"], 1)
    assert list(read_one(writer.to_yaml(data)).data) == ["-x", "1", "2", "10", "B", "a", "b-1", "b9", "b10", "ba"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("true", '"true"'), ("1", '"1"'), ("y", '"y"'), ("", '""'), ("2016-12-10T22:42:27Z", '"2016-12-10T22:42:27Z"'),
        ("1:30", '"1:30"'), ("a: b", "'a: b'"), ("it's", "it's"), ("*", "'*'"), ("-", "'-'"), ("a #b", "'a #b'"),
        ("0.0.0.0/0", "0.0.0.0/0"), ("1.34.0", "1.34.0"), ("a\nb", "|-\n  a\n  b"), ("a\n", "|\n  a"), ("\tx", '"\\tx"'),
        ({}, "{}"), ([], "[]"), (True, "true"), (1.5, "1.5"), (1e21, "1e+21"), (None, "null"),
    ],
)  # fmt: skip
def test_quotes_only_where_they_are_needed(value: Any, written: str) -> None:
    assert writer.to_yaml({"a": value}) == f"a: {written}\n"


def test_long_lines_are_folded_after_column_80() -> None:
    text = "word " * 20 + "end"
    lines = writer.to_yaml({"a": text}).splitlines()
    assert len(lines) == 2
    assert 80 < len(lines[0]) < 90
    assert read_one(writer.to_yaml({"a": text})).data == {"a": text}


SHARED = pytest.mark.skipif(not cases.SHARED.is_dir(), reason=f"{cases.SHARED} is not here")


@SHARED
def test_every_file_kops_wrote_is_written_byte_for_byte() -> None:
    names = {"completed.yaml", "igs-completed.yaml", "config.yaml", "expected.yaml"}
    paths = [
        path for path in cases.SHARED.rglob("*.yaml") if path.name in names and path.parts[-3] in {"complete", "create"}
    ]
    assert len(paths) > 500
    for path in paths:
        text = path.read_text()
        written = writer.stream(each.data for each in read(text, str(path)))
        assert _joined(written) == _joined(text), path


def _joined(text: str) -> str:
    return "\n---\n".join(part.strip("\n") for part in text.split("\n---\n"))
