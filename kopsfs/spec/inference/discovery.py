"""Under which name are service-account tokens issued?"""

from urllib.parse import urlsplit

from kopsfs.spec.inference.cluster import ipv6_only, name
from kopsfs.spec.layout import join
from kopsfs.spec.rules import Draft, Rule

_SOURCE = "pkg/model/components/discovery.go:DiscoveryOptionsBuilder"
_API = "spec.kubeAPIServer"
_DISCOVERY = "spec.serviceAccountIssuerDiscovery"
_OPEN = frozenset({"0.0.0.0/0", "::/0"})


def _issuer(draft: Draft) -> None:
    field = f"{_API}.serviceAccountIssuer"
    if draft.has(field):
        return
    store = draft.text(f"{_DISCOVERY}.discoveryStore")
    if store:
        draft.force(field, _store_url(draft, store))
    elif draft.has(f"{_DISCOVERY}.discoveryService"):
        url = draft.text(f"{_DISCOVERY}.discoveryService.url")
        if not url:
            draft.fail("discoveryService URL must be specified", field=f"{_DISCOVERY}.discoveryService.url")
        draft.force(field, url)
    elif _public(draft) and draft.text("spec.api.publicName"):
        draft.force(field, f"https://{draft.text('spec.api.publicName')}")
    else:
        draft.force(field, f"https://api.internal.{name(draft)}")


def _public(draft: Draft) -> bool:
    """May anybody on the Internet read the keys from the API?  Source: discovery.go:supportsPublicJWKS."""
    if draft.get(f"{_API}.anonymousAuth") is not True:
        return False
    return any(cidr in _OPEN for cidr in draft.items("spec.api.access"))


def _store_url(draft: Draft, store: str) -> str:
    """The https URL of a store; that of an S3 bucket needs to know its region."""
    url = urlsplit(store)
    key = url.path.strip("/")
    if url.scheme == "memfs":
        return join(store).replace("memfs://", "https://", 1)
    if url.scheme == "gs":
        return f"https://storage.googleapis.com/{url.netloc}/{key}".rstrip("/")
    if url.scheme != "s3":
        draft.fail(f"locationStore={store!r} is of unexpected type", field=f"{_DISCOVERY}.discoveryStore", value=store)
    regions = draft.fact(
        "aws", "buckets", why="the region of the discovery store", field=f"{_DISCOVERY}.discoveryStore"
    )
    region = regions.get(url.netloc)
    if not region:
        draft.fail(f"bucket {url.netloc!r} does not exist", field=f"{_DISCOVERY}.discoveryStore", value=store)
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    host = f"s3.dualstack.{region}.{domain}" if ipv6_only(draft) else f"s3.{region}.{domain}"
    base = f"https://{host}/{url.netloc}" if "." in url.netloc else f"https://{url.netloc}.{host}"
    return f"{base}/{key}" if key else base


def _audiences(draft: Draft) -> None:
    if not draft.items(f"{_API}.apiAudiences"):
        draft.force(f"{_API}.apiAudiences", ["kubernetes.svc.default"])


def _jwks(draft: Draft) -> None:
    draft.force(f"{_API}.serviceAccountJWKSURI", f"{draft.text(f'{_API}.serviceAccountIssuer')}/openid/v1/jwks")


RULES = (
    Rule("api-audiences", (f"{_API}.apiAudiences[*]",), _SOURCE, _audiences),
    Rule("service-account-issuer", (f"{_API}.serviceAccountIssuer",), _SOURCE, _issuer),
    Rule("service-account-jwks", (f"{_API}.serviceAccountJWKSURI",), _SOURCE, _jwks),
)
