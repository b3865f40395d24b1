"""What does this store honour?

Some stores compare `If-Match` and `If-None-Match: *`, some ignore them, some know one form of the tag
only, and none says which. A condition counts as kept when the store has been seen to *refuse* by it, in
a write that somebody wanted, never by a probe object. `Conditions` holds what has been seen; `create`,
`replace` and `delete` are plans: generators that yield what to do next (`Look`, `Send`), are told what
came of it, and return how the write ended. They touch no network, so every kind of store is a table of
answers in the tests; `Store` carries the steps out.

While a condition is unproven a write first looks whether its base still holds. Then

* create-only is learnt by the first replacement: sent with `If-None-Match: *` it must be refused;
* replace-if and delete-if by the same write with a wrong tag, which must be refused, and then the right
  one, which must not: in quotes, and if those never match (Ceph 16) without.

A refusal proves `compared`. An acceptance is the write that was wanted, and proves that the condition is
ignored: from then on `check-then-put`. A write whose answer was lost is looked for before it is repeated.
At most one HEAD and two deliberate refusals are spent on a bucket whose tags are quoted; one HEAD and two
refusals more where the quoted form never matches.

What was stored with nothing to protect it is read back: of two who wrote in the same instant, whoever finds the
other's bytes has lost. What stays open is a rival's write that comes after one's look and before one's own.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

from kopsfs.store.driver import ABSENT, ANY, Capabilities, Expected, Form, Guarantee, Version

log = logging.getLogger(__name__)

Condition = Literal["create_only", "replace_if", "delete_if"]
CONDITIONS: Final[tuple[Condition, ...]] = ("create_only", "replace_if", "delete_if")
FORMS: Final[tuple[Form, ...]] = ("quoted", "unquoted")
WRONG: Final = Version("00000000000000000000000000000000")
"""A tag no object has; where it is an MD5, of no bytes anybody knows."""


@dataclass(frozen=True, slots=True)
class Look:
    """HEAD: is the object as the write expects it?"""

    ours: bool = False
    """Also compare bytes: an answer was lost, and our own write may have acted."""


@dataclass(frozen=True, slots=True)
class Send:
    """The write itself, under a condition."""

    expected: Expected
    form: Form = "quoted"


class Seen(enum.Enum):
    """What came of a step."""

    HOLDS = "the object is as expected"
    OURS = "it holds our bytes"
    GONE = "it is not there, and should be"
    OTHER = "somebody else's bytes"
    ACCEPTED = "2xx"
    REFUSED = "412"
    MISSING = "404"
    UNKNOWN = "501, or a 400 that names the condition"
    LOST = "no answer: may have acted"


class Verdict(enum.Enum):
    """How a write ended."""

    DONE = "done"
    CONFLICT = "conflict"


Plan = Generator[Look | Send, Seen, Verdict]
_Part = Generator[Look | Send, Seen, Seen]


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is remembered of one bucket."""

    create_only: Guarantee
    replace_if: Guarantee
    delete_if: Guarantee
    replace_form: Form = "quoted"
    delete_form: Form = "quoted"
    versioned: bool | None = None
    """PUT answers carry a version id; None: no PUT yet, or the store has no such thing."""


class Conditions:
    """What one bucket has been seen to do. A driver's own promises (`atomic` …) are taken as they are."""

    def __init__(self, capabilities: Capabilities, memory: Memory | None = None) -> None:
        self._promised = Learnt(capabilities.create_only, capabilities.replace_if, capabilities.delete_if)
        self._forbids = capabilities.forbids_most
        self._memory = memory
        self.learnt = self._promised
        if memory is not None and (remembered := memory.read()) is not None:
            self.learnt = replace(
                remembered,
                **{name: promise for name in CONDITIONS if (promise := getattr(self._promised, name)) != "unproven"},
            )

    def apply(self, capabilities: Capabilities) -> Capabilities:
        """Give the capabilities with what has been learnt."""
        return replace(capabilities, **{name: getattr(self.learnt, name) for name in CONDITIONS})

    def unproven(self, expected: Expected, *, deleting: bool = False) -> bool:
        """Whether such a write would be used to learn: only one at a time may."""
        if not isinstance(expected, str):
            return False
        if deleting:
            return self.learnt.delete_if == "unproven"
        return "unproven" in {self.learnt.create_only, self.learnt.replace_if}

    def looks_first(self, expected: Expected) -> bool:
        """Whether a put begins with a HEAD; a creation has nothing to look at."""
        if isinstance(expected, str):
            return self.unproven(expected) or not _kept(self.learnt.replace_if)
        return expected is ABSENT

    def note_versioning(self, versioned: bool | None) -> bool:  # noqa: FBT001  an answer, not a switch
        """Take in what a PUT's answer said; say whether that made all that was learnt void."""
        if versioned is None or versioned == self.learnt.versioned:
            return False
        changed = self.learnt.versioned is not None
        if changed:
            log.info("versioning of the bucket changed versioned=%s: conditions are unproven again", versioned)
        self._store(replace(self._promised if changed else self.learnt, versioned=versioned))
        return changed

    def learn(self, condition: Condition, guarantee: Guarantee, form: Form = "quoted") -> None:
        """Remember what a condition turned out to be."""
        log.info("learnt condition=%s guarantee=%s form=%s", condition, guarantee, form)
        changes: dict[str, str] = {condition: guarantee}
        if condition != "create_only":
            changes["replace_form" if condition == "replace_if" else "delete_form"] = form
        self._store(replace(self.learnt, **changes))  # type: ignore[arg-type]  # a field's name comes from a variable

    def _store(self, learnt: Learnt) -> None:
        self.learnt = learnt
        if self._memory is not None:
            self._memory.write(learnt)

    # -- plans ----------------------------------------------------------------------------------

    def overwrite(self) -> Plan:
        """Write or remove whatever is there; repeating that does no harm that it would not do once."""
        seen = yield from _repeat(Send(ANY))
        return Verdict.DONE if seen is Seen.ACCEPTED else Verdict.CONFLICT

    def create(self) -> Plan:
        """Write an object that must not exist."""
        if _kept(self.learnt.create_only):
            match (yield from _repeat(Send(ABSENT))):
                case Seen.ACCEPTED:
                    return Verdict.DONE
                case Seen.UNKNOWN:
                    self.learn("create_only", "check-then-put")
                case _:
                    return Verdict.CONFLICT
        if (yield Look()) is not Seen.HOLDS:
            return Verdict.CONFLICT
        if self.learnt.create_only == "unproven":
            match (yield from _careful(Send(ABSENT))):
                case Seen.ACCEPTED:
                    return (yield from _read_back(Seen.HOLDS))
                case Seen.UNKNOWN:
                    self.learn("create_only", "check-then-put")
                case Seen.REFUSED:
                    if (yield Look()) is not Seen.HOLDS:
                        self.learn("create_only", "compared")
                        return Verdict.CONFLICT
                    # Refused, though nothing is there: this store cannot create under a condition at all.
                    self.learn("create_only", "check-then-put")
                case _:
                    return Verdict.CONFLICT
        # A condition that several may pass (Swift, OSS) still refuses most of them.
        return (yield from _and_read_back(Send(ABSENT if self._forbids else ANY), Seen.HOLDS))

    def replace(self, base: Version) -> Plan:
        """Write an object that must be at version `base`."""
        looked = False
        if self.learnt.create_only == "unproven":
            if (yield Look()) is not Seen.HOLDS:
                return Verdict.CONFLICT
            looked = True
            match (yield from _careful(Send(ABSENT))):
                case Seen.ACCEPTED:
                    self.learn("create_only", "check-then-put")
                    return (yield from _read_back())
                case Seen.UNKNOWN:
                    self.learn("create_only", "check-then-put")
                case Seen.REFUSED:
                    self.learn("create_only", "compared")
                case _:
                    return Verdict.CONFLICT
        return (yield from self._on_base("replace_if", base, looked=looked))

    def delete(self, base: Version) -> Plan:
        """Remove an object that must be at version `base`; one that is gone is done."""
        return (yield from self._on_base("delete_if", base, looked=False))

    def _on_base(self, condition: Condition, base: Version, *, looked: bool) -> Plan:
        gone = Verdict.DONE if condition == "delete_if" else Verdict.CONFLICT
        if _kept(getattr(self.learnt, condition)):
            form = self.learnt.replace_form if condition == "replace_if" else self.learnt.delete_form
            match (yield from _repeat(Send(base, form))):
                case Seen.ACCEPTED:
                    return Verdict.DONE
                case Seen.UNKNOWN:
                    self.learn(condition, "check-then-put")
                case Seen.MISSING:
                    return gone
                case _:
                    return Verdict.CONFLICT
        if not looked and (seen := (yield Look())) is not Seen.HOLDS:
            return gone if seen is Seen.GONE else Verdict.CONFLICT
        if getattr(self.learnt, condition) == "unproven":
            verdict = yield from self._learn_on_base(condition, base, gone)
            if verdict is not None:
                return verdict
        if condition == "replace_if":
            return (yield from _and_read_back(Send(ANY)))
        return (yield from _unconditional(gone))

    def _learn_on_base(
        self, condition: Condition, base: Version, gone: Verdict
    ) -> Generator[Look | Send, Seen, Verdict | None]:
        """Find out whether and in which form the condition is kept; None: it is not, and nothing was written."""
        wrong = WRONG if base != WRONG else Version(WRONG[::-1].replace("0", "1"))
        for form in FORMS:
            match (yield from _careful(Send(wrong, form))):
                case Seen.ACCEPTED:
                    self.learn(condition, "check-then-put")
                    return Verdict.DONE if condition == "delete_if" else (yield from _read_back())
                case Seen.REFUSED:
                    pass
                case Seen.UNKNOWN:
                    break
                case Seen.MISSING | Seen.GONE:
                    return gone
                case _:
                    return Verdict.CONFLICT
            match (yield from _careful(Send(base, form))):
                case Seen.ACCEPTED:
                    self.learn(condition, "compared", form)
                    return Verdict.DONE
                case Seen.REFUSED:
                    # Either somebody was faster, or this form never matches.
                    if (seen := (yield Look())) is not Seen.HOLDS:
                        return gone if seen is Seen.GONE else Verdict.CONFLICT
                case Seen.UNKNOWN:
                    break
                case Seen.MISSING | Seen.GONE:
                    return gone
                case _:
                    return Verdict.CONFLICT
        self.learn(condition, "check-then-put")
        return None


def _kept(guarantee: Guarantee) -> bool:
    return guarantee in {"atomic", "compared"}


def _repeat(send: Send) -> _Part:
    """Send until there is an answer: the condition itself keeps a repetition from doing harm."""
    while (seen := (yield send)) is Seen.LOST:
        pass
    return seen


def _careful(send: Send) -> _Part:
    """Send; when the answer is lost, look before sending again, because nothing else protects the object."""
    while (seen := (yield send)) is Seen.LOST:
        match (yield Look(ours=True)):
            case Seen.HOLDS:
                continue
            case Seen.OURS:
                return Seen.ACCEPTED
            case other:
                return other
    return seen


def _unconditional(gone: Verdict) -> Plan:
    match (yield from _careful(Send(ANY))):
        case Seen.ACCEPTED:
            return Verdict.DONE
        case Seen.GONE | Seen.MISSING:
            return gone
        case _:
            return Verdict.CONFLICT


def _and_read_back(send: Send, also: Seen = Seen.OURS) -> Plan:
    """Write what nothing protects; whose bytes stay is who won."""
    if (yield from _careful(send)) is not Seen.ACCEPTED:
        return Verdict.CONFLICT
    return (yield from _read_back(also))


def _read_back(also: Seen = Seen.OURS) -> Plan:
    """After a write: `also` is HOLDS for a creation, which was there and has been removed since."""
    return Verdict.DONE if (yield Look(ours=True)) in {Seen.OURS, also} else Verdict.CONFLICT


class Memory:
    """A small JSON file: bucket → `Learnt`. Losing it costs one round of learning, no more."""

    def __init__(self, path: Path, bucket: str) -> None:
        self._path = path
        self._bucket = bucket

    def read(self) -> Learnt | None:
        """Give what is remembered of the bucket; None when nothing usable is."""
        known = self._all().get(self._bucket)
        try:
            learnt = Learnt(**known) if isinstance(known, dict) else None
        except TypeError:
            return None
        return learnt if learnt is not None and _sound(learnt) else None

    def write(self, learnt: Learnt) -> None:
        """Replace what is remembered; a failure is only logged."""
        known = self._all()
        known[self._bucket] = asdict(learnt)
        temp = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temp.write_text(json.dumps(known, indent=1, sort_keys=True))
            temp.replace(self._path)
        except OSError as error:
            log.info("what was learnt is not remembered path=%s err=%s", self._path, error)
            with contextlib.suppress(OSError):
                temp.unlink()

    def _all(self) -> dict[str, object]:
        try:
            known = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _sound(learnt: Learnt) -> bool:
    guarantees = {"atomic", "compared", "check-then-put", "unproven"}
    return (
        all(getattr(learnt, name) in guarantees for name in CONDITIONS)
        and {learnt.replace_form, learnt.delete_form} <= set(FORMS)
        and learnt.versioned in {True, False, None}
    )
