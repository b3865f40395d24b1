"""Does the tree believe the right thing, whatever order local calls, other clients and listings come in?

A Hypothesis state machine over `Tree` (with a set standing for what the journal owes) against a reference of plain
dictionaries: what the store holds, what this machine has laid over it, what every handle pinned. Listings are taken
at one moment and applied at a later one, so they are stale as real ones are. After each step everything a stat
shows is compared: kind, size, locality, version, inode and its stability, lookup counts, an mtime that never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kopsfs.fs.tree import Inode, Tree, version_of
from kopsfs.store.driver import Key, ObjectInfo, Version

KEYS = ["f", "d/f", "d/e/h", "x", "x/y", "d/new"]
"""`x` and `x/y`: an object and a directory of its name."""
OFTEN = [*KEYS, *["f"] * 6]
"""Many things must happen to one key before it becomes interesting."""
DIRECTORIES = ["d", "d/e", "x"]


@dataclass
class Local:
    """What this machine has laid over a key."""

    ino: int
    deleted: bool = False
    uploaded: bool = False


@dataclass(eq=False)
class Listing:
    """The store as of one moment, and the tree's serial when it was asked for."""

    asked: int
    objects: dict[str, ObjectInfo]
    here: set[str] = field(default_factory=set)
    """Keys something was done to here since: the listing has no say in them."""


@dataclass
class Open:
    """A handle, and the version it pinned; None once something was written here."""

    inode: Inode
    info: ObjectInfo | None


class TreeModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = 10**18
        self.owed: set[str] = set()
        self.tree = Tree(prefix="", now_ns=self.now, attributes={})
        self.tree.owed = lambda path: path in self.owed
        self.store: dict[str, ObjectInfo] = {}
        self.serial = 0
        self.believed: dict[str, ObjectInfo] = {}
        """What the reference thinks the tree shows of the store."""
        self.local: dict[str, Inode] = {}
        """Files created here whose bytes are owed or not even that."""
        self.taken: list[Listing] = []
        self.bases: dict[str, Version | None] = {}
        """By key of `local`: the version its next upload replaces."""
        self.doubts: list[tuple[list[Key], int]] = []
        """Keys a listing left out, and when it was asked for."""
        self.gone: list[tuple[list[Key], int]] = []
        """Those of them a HEAD did not find."""
        self.handles: list[Open] = []
        self.lookups: dict[int, int] = {}
        self.inos: dict[str, int] = {}
        self.mtimes: dict[str, tuple[str, int]] = {}

    def now(self) -> int:
        self.clock += 1000
        return self.clock

    def info(self, key: str) -> ObjectInfo:
        self.serial += 1
        return ObjectInfo(Key(key), Version(f"v{self.serial}"), self.serial, 10**18 + self.serial)

    def touched(self, key: str) -> None:
        """Something happened here: listings taken before know nothing of it."""
        for listing in self.taken:
            listing.here.add(key)

    def wrote(self, inode: Inode) -> None:
        for handle in self.handles:
            if handle.inode is inode:
                handle.info = None

    def inode(self, key: str) -> Inode | None:
        return self.tree.stored.get(Key(key)) or self.local.get(key)

    # -- another client ---------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(OFTEN))
    def they_put(self, key: str) -> None:
        self.store[key] = self.info(key)

    @rule(key=st.sampled_from(OFTEN))
    def they_delete(self, key: str) -> None:
        self.store.pop(key, None)

    # -- listings ---------------------------------------------------------------------------------------------------------

    @rule()
    def ask(self) -> None:
        self.taken.append(Listing(self.tree.serial, dict(self.store)))

    @rule()
    def refresh(self) -> None:
        """A listing that takes no time."""
        self.ask()
        self.take_over(self.taken[-1])
        while self.doubts:
            self.head()
        while self.gone:
            self.drop()

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """A listing arrives, perhaps long after it was asked for, and is taken over as the file system does."""
        self.take_over(data.draw(st.sampled_from(self.taken)))

    def take_over(self, listing: Listing) -> None:
        del self.taken[: self.taken.index(listing) + 1]  # a scope has one listing under way: none older comes later
        pinned = {str(k) for k, inode in self.tree.stored.items() if inode.opens}
        self.tree.apply([listing.objects[k] for k in sorted(listing.objects)], listing.asked)
        missing = self.tree.missing({Key(k) for k in listing.objects}, listing.asked, lambda _key: True)
        expected_missing = {
            k for k in self.believed if k not in listing.objects and k not in listing.here and k not in self.owed
        }
        assert set(missing) >= expected_missing
        self.doubts.append((missing, listing.asked))
        for key, info in listing.objects.items():
            if key not in listing.here and key not in self.owed and self.local.get(key) is None:
                if key not in self.believed or (key in pinned and self.believed[key] != info):
                    self.inos.pop(key, None)
                self.believed[key] = info

    @precondition(lambda self: self.doubts)
    @rule()
    def head(self) -> None:
        """Each name that a listing left out is asked for."""
        missing, asked = self.doubts.pop(0)
        self.gone.append(([key for key in missing if key not in self.store], asked))

    @precondition(lambda self: self.gone)
    @rule()
    def drop(self) -> None:
        """And dropped a moment later, if nothing has happened to it here since the listing was asked for."""
        gone, asked = self.gone.pop(0)
        for key in gone:
            inode = self.tree.stored.get(key)
            stays = inode is None or inode.serial > asked or key in self.owed
            change = self.tree.vanish(key, asked)
            assert (change is None) == stays
            if change is not None:
                self.tree.prune(change.parent, lambda _path: False)
                self.believed.pop(key, None)
                self.inos.pop(key, None)

    # -- programs here ----------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(OFTEN))
    def save(self, key: str) -> None:
        """Write a file, new or not: its bytes are owed."""
        inode = self.inode(key)
        if inode is None:
            directory, name = self.tree.ensure_directory(key.rpartition("/")[0])[0], key.rpartition("/")[2]
            if self.tree.child(directory, name) is not None:
                return
            inode = self.tree.make(directory, name, "file")
        if key not in self.local:
            self.bases[key] = version_of(inode)
        self.local[key] = inode
        self.believed.pop(key, None)
        self.owed.add(key)
        self.wrote(inode)
        self.tree.bump(inode)
        self.touched(key)

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def upload(self, data: st.DataObject) -> None:
        """What is owed reaches the store, unless somebody else was faster; either way it is owed no more."""
        key = data.draw(st.sampled_from(sorted(self.owed)))
        inode = self.local.pop(key, None)
        self.owed.discard(key)
        if inode is None:  # a deletion
            self.store.pop(key, None)
            self.tree.bury(Key(key))
        else:
            self.store[key] = self.info(key)
            self.believed[key] = self.store[key]
            self.inos[key] = inode.ino
            mtime = inode.mtime_ns
            self.tree.settle(inode, self.store[key])
            assert inode.mtime_ns == mtime, "an upload never moves the mtime"
        self.touched(key)

    @precondition(lambda self: self.local)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """Somebody else was faster: their version, or its absence, is shown."""
        key = data.draw(st.sampled_from(sorted(self.local)))
        theirs = self.store.get(key)
        if version_of(self.local[key]) == (theirs.version if theirs is not None else None):
            return  # nobody was
        inode = self.local.pop(key)
        self.owed.discard(key)
        self.touched(key)
        self.inos.pop(key, None)
        if key in self.store:
            self.tree.concede(inode, self.store[key])
            self.believed[key] = self.store[key]
        else:
            self.tree.expel(inode)

    @rule(key=st.sampled_from(OFTEN))
    def unlink(self, key: str) -> None:
        inode = self.inode(key)
        if inode is None:
            return
        if version_of(inode) is not None:
            self.owed.add(key)
        else:
            self.owed.discard(key)
        self.tree.bury(Key(key))
        self.tree.unlink(inode)
        self.local.pop(key, None)
        self.believed.pop(key, None)
        self.inos.pop(key, None)
        self.touched(key)

    @rule(old=st.sampled_from(KEYS), new=st.sampled_from(["f", "d/f", "d/new"]))
    def move(self, old: str, new: str) -> None:
        inode = self.inode(old)
        if inode is None or old == new or self.tree.find(new) is not None or new in self.owed:
            return
        directory = self.tree.find(new.rpartition("/")[0])
        if directory is None or not directory.is_dir:
            return
        ino = inode.ino
        if version_of(inode) is not None:
            self.owed.add(old)
            self.tree.disown(inode)
        else:
            self.owed.discard(old)
        self.tree.bury(Key(old))
        self.tree.move(inode, directory, new.rpartition("/")[2])
        assert inode.ino == ino, "the inode survives its rename"
        self.local.pop(old, None)
        self.believed.pop(old, None)
        self.inos.pop(old, None)
        self.local[new] = inode
        self.bases[new] = None
        self.wrote(inode)
        self.owed.add(new)
        self.touched(old)
        self.touched(new)

    # -- the kernel -------------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS + DIRECTORIES))
    def look_up(self, key: str) -> None:
        inode = self.tree.find(key)
        if inode is not None:
            self.tree.remember(inode)
            self.lookups[inode.ino] = self.lookups.get(inode.ino, 0) + 1

    @precondition(lambda self: self.lookups)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        ino = data.draw(st.sampled_from(sorted(self.lookups)))
        count = data.draw(st.integers(1, self.lookups[ino]))
        self.tree.forget(ino, count)
        self.lookups[ino] -= count
        if not self.lookups[ino]:
            del self.lookups[ino]

    @rule(key=st.sampled_from(OFTEN))
    def open(self, key: str) -> None:
        inode = self.inode(key)
        if inode is not None:
            inode.opens += 1
            self.handles.append(Open(inode, None if key in self.local else inode.info))

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        inode = self.handles.pop(data.draw(st.integers(0, len(self.handles) - 1))).inode
        inode.opens -= 1
        self.tree.closed(inode)

    # -- what must hold ---------------------------------------------------------------------------------------------------

    @invariant()
    def the_invariants_hold(self) -> None:
        self.tree.check()

    @invariant()
    def what_is_shown_is_what_the_reference_says(self) -> None:
        shown = {k: i.info for k, i in self.tree.stored.items() if self.local.get(k) is None}
        assert shown == self.believed
        for key, info in self.believed.items():
            inode = self.tree.stored[Key(key)]
            assert not inode.is_dir
            assert not inode.local
            assert inode.size == info.size
            shadowed = any(other.startswith(key + "/") for other in [*self.believed, *self.local])
            assert self.tree.find(key) is inode or shadowed or inode.key == key, "its name leads to it"
        for key, inode in self.local.items():
            assert self.tree.linked(inode)
            assert self.tree.key(inode) == key
            assert version_of(inode) == self.bases[key], "its base is what it was"

    @invariant()
    def an_inode_stays_while_nothing_newer_came(self) -> None:
        for key in self.believed:
            ino = self.tree.stored[Key(key)].ino
            assert self.inos.setdefault(key, ino) == ino

    @invariant()
    def a_handle_keeps_its_version(self) -> None:
        for handle in self.handles:
            assert self.tree.inodes.get(handle.inode.ino) is handle.inode
            assert handle.info is None or handle.inode.info is handle.info

    @invariant()
    def lookups_are_counted(self) -> None:
        for ino, count in self.lookups.items():
            assert self.tree.inodes[ino].lookups == count  # type: ignore[index]

    @invariant()
    def mtime_never_goes_back_while_a_version_is_shown(self) -> None:
        for key, info in self.believed.items():
            inode = self.tree.stored[Key(key)]
            version, mtime = self.mtimes.get(key, ("", 0))
            if version == info.version:
                assert inode.mtime_ns == mtime
            self.mtimes[key] = (info.version, inode.mtime_ns)


TreeModel.TestCase.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, derandomize=True, report_multiple_bugs=False
)
TestTreeModel = TreeModel.TestCase
