"""What comes before every other component: the cluster's DNS domain."""

from kopsfs.spec.rules import constants

RULES = (
    constants(
        "cluster-dns-domain",
        "pkg/model/components/defaults.go:DefaultsOptionsBuilder",
        "spec",
        (("clusterDNSDomain", "cluster.local"),),
    ),
)
