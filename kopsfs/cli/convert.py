"""How does a document look in another API version?  `convert`."""

from __future__ import annotations

import argparse
import sys

from kopsfs.cli import naming, program

_EPILOG = f"""\
examples:
  kopsfs convert -f cluster.yaml --to v1alpha3
  kopsfs convert c1.example.com --to v1alpha3       the author's cluster and groups

kops's decoding defaults are applied, and what an API version has no field for is dropped, as kops
does both; unknown fields are named on stderr. Objects that are not kops's stay as they are; a
`cluster.spec` of kops 1.21 or earlier, which has no apiVersion, is read as v1alpha2.

{naming.EPILOG_STORE}
exit status: 0; 1 findings; 2 usage; 66 no such input; 69 store unreachable; 77 denied
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `convert`."""
    parser = program.add_command(subparsers, "convert", "Convert documents between kops's API versions.", _EPILOG)
    naming.add_documents(parser)
    parser.add_argument("--to", choices=("v1alpha2", "v1alpha3"), required=True, help="the API version to write")
    naming.add_output(parser, ("yaml", "json"))
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from kopsfs.cli import inputs
    from kopsfs.cli.trees import Trees
    from kopsfs.spec import writer
    from kopsfs.spec.conversion import converted
    from kopsfs.spec.field import RefusedError

    try:
        with Trees(parsed.state, verbose=parsed.verbose) as trees:
            subject = inputs.subject_of(parsed, trees)
        done = [converted(document, parsed.to) for document in subject.documents]
    except RefusedError as error:
        return inputs.complain_about(error.findings)
    for _, findings in done:
        inputs.complain_about(findings)
    objects = [data for data, _ in done]
    sys.stdout.write(writer.to_json(objects) if parsed.output == "json" else writer.stream(objects))
    return 0
