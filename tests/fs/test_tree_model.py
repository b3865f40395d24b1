"""Does the tree believe the right thing, whatever order local calls, other clients and listings come in?

A Hypothesis state machine over `Tree` (with a set standing for what the journal owes) against a reference of plain
dictionaries: what the store holds, what this machine has laid over it, what every handle pinned. Questions - listings, and
those for one key - are asked at one moment, served at a later one and answered at a third, in any order, so that answers
are as stale as real ones are. After each step everything a stat shows is compared: kind, size, locality, version, inode
and its stability, lookup counts, an mtime that never goes back; and what is shown never goes back in the store's history.
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
class Question:
    """A listing or a GET: its number, the store's history when it was asked, the store as of when it was served."""

    asked: int
    key: str | None
    """None: a listing."""
    history: dict[str, int]
    objects: dict[str, ObjectInfo] | None = None
    served: dict[str, int] = field(default_factory=dict)
    """The history at that moment."""
    here: set[str] = field(default_factory=set)
    """Keys that something was done to here since."""
    learnt: set[str] = field(default_factory=set)
    """Those and what another answer brought since: this one has no say in them."""


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
        self.asked: list[Question] = []
        self.history: dict[str, int] = dict.fromkeys(KEYS, 0)
        """How often the store's state of a key has changed."""
        self.reached: dict[str, int] = {}
        """By version: which of those changes it was."""
        self.gone_at: dict[str, int] = dict.fromkeys(KEYS, 0)
        """By key: the change that the tree saw when it last learnt that the key is gone."""
        self.newest: dict[str, int] = dict.fromkeys(KEYS, 0)
        """By key: the newest of those changes that the tree has shown."""
        self.bases: dict[str, Version | None] = {}
        """By key of `local`: the version its next upload replaces."""
        self.doubts: list[tuple[list[Key], int]] = []
        """Keys a listing left out, and when it was asked for."""
        self.gone: list[tuple[dict[Key, int], int]] = []
        """Those of them a HEAD did not find, and the change that it saw."""
        self.handles: list[Open] = []
        self.lookups: dict[int, int] = {}
        self.inos: dict[str, int] = {}
        self.mtimes: dict[str, tuple[str, int, int]] = {}

    def now(self) -> int:
        self.clock += 1000
        return self.clock

    def info(self, key: str) -> ObjectInfo:
        self.serial += 1
        return ObjectInfo(Key(key), Version(f"v{self.serial}"), self.serial, 10**18 + self.serial)

    def touched(self, key: str, *, here: bool = True) -> None:
        """Something happened here, or was learnt: what was asked before may know nothing of it."""
        for question in self.asked:
            question.learnt.add(key)
            if here:
                question.here.add(key)

    def keep(self, key: str, info: ObjectInfo | None) -> None:
        """The store's state of a key changes."""
        self.history[key] += 1
        if info is None:
            self.store.pop(key, None)
        else:
            self.store[key] = info
            self.reached[info.version] = self.history[key]

    def wrote(self, inode: Inode) -> None:
        for handle in self.handles:
            if handle.inode is inode:
                handle.info = None

    def inode(self, key: str) -> Inode | None:
        return self.tree.stored.get(Key(key)) or self.local.get(key)

    # -- another client ---------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(OFTEN))
    def they_put(self, key: str) -> None:
        self.keep(key, self.info(key))

    @rule(key=st.sampled_from(OFTEN))
    def they_delete(self, key: str) -> None:
        if key in self.store:
            self.keep(key, None)

    # -- questions --------------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from([None, None, *OFTEN]))
    def ask(self, key: str | None) -> None:
        self.asked.append(Question(self.tree.ask(), key, dict(self.history)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def serve(self, data: st.DataObject) -> None:
        """The store looks; what happens to it from now on the answer does not know."""
        self.look(data.draw(st.sampled_from(self.asked)))

    def look(self, question: Question) -> None:
        if question.objects is None:
            question.objects = {k: i for k, i in self.store.items() if question.key in {None, k}}
            question.served = dict(self.history)

    @rule()
    def refresh(self) -> None:
        """A listing that takes no time: it knows better than whatever is under way."""
        self.ask(None)
        self.take_over(self.asked[-1])
        assert not self.tree.unsure, "nothing was learnt since it was asked"
        while self.doubts:
            self.head()
        while self.gone:
            self.drop()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """An answer arrives, perhaps long after it was asked for, and is taken over as the file system does."""
        self.take_over(data.draw(st.sampled_from(self.asked)))

    @rule(
        key=st.sampled_from(OFTEN),
        listings=st.tuples(st.booleans(), st.booleans()),
        served=st.permutations([0, 1, 2]),
        gone=st.booleans(),
        answered=st.sampled_from([[0, 1], [1, 0], [0], [1]]),
    )
    def overlap(
        self, key: str, listings: tuple[bool, bool], served: list[int], gone: bool, answered: list[int]
    ) -> None:
        """Two questions under way at the same time and a change of the store, served and answered in any order."""
        if gone:
            self.they_delete(key)
        for listing in listings:
            self.ask(None if listing else key)
            if served[0] == 0:
                self.look(self.asked[-1])  # the first was served before the second was asked
                self.they_put(key)
        questions = self.asked[-2:]
        for which in served:
            if which < 2:
                self.look(questions[which])
            else:
                self.they_put(key)
        for which in answered:
            self.take_over(questions[which])

    def take_over(self, question: Question) -> None:
        self.asked.remove(question)
        self.look(question)
        objects, learnt = question.objects, question.learnt
        assert objects is not None
        pinned = {str(k) for k, inode in self.tree.stored.items() if inode.opens}
        self.tree.apply([objects[k] for k in sorted(objects)], question.asked)
        if question.key is None:
            missing = self.tree.missing({Key(k) for k in objects}, question.asked, lambda _key: True)
            expected = {k for k in self.believed if k not in objects and k not in learnt and k not in self.owed}
            assert set(missing) >= expected
            self.doubts.append((missing, self.tree.ask()))
        elif not objects and self.tree.stored.get(Key(question.key)) is not None:
            self.gone.append(({Key(question.key): question.served[question.key]}, question.asked))
            self.drop(-1)
        for key, info in objects.items():
            if key not in learnt and key not in self.owed and self.local.get(key) is None:
                if self.believed.get(key) != info:
                    self.touched(key, here=False)
                    if key not in self.believed or key in pinned:
                        self.inos.pop(key, None)
                self.believed[key] = info
        for key, info in objects.items():
            if key in question.here or key in self.owed or key in self.local or Key(key) in self.tree.unsure:
                continue
            shown = self.reached[self.believed[key].version] if key in self.believed else self.gone_at[key]
            assert shown >= question.history[key], "it is at least what the store held when the question was asked"
        self.tree.unsure.clear()  # asked once more, sooner or later

    @precondition(lambda self: self.doubts)
    @rule()
    def head(self) -> None:
        """Each name that a listing left out is asked for."""
        missing, _ = self.doubts.pop(0)
        self.gone.append(({key: self.history[key] for key in missing if key not in self.store}, self.tree.ask()))

    @precondition(lambda self: self.gone)
    @rule()
    def drop(self, which: int = 0) -> None:
        """And dropped a moment later, if nothing has happened to it here since, nor was anything learnt."""
        gone, asked = self.gone.pop(which)
        for key, change_seen in gone.items():
            inode = self.tree.stored.get(key)
            stays = inode is None or inode.serial > asked or key in self.owed
            change = self.tree.vanish(key, asked)
            assert (change is None) == stays
            if change is not None:
                self.tree.prune(change.parent, lambda _path: False)
                self.believed.pop(key, None)
                self.inos.pop(key, None)
                self.touched(key, here=False)
                self.gone_at[key] = change_seen

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
            self.keep(key, None)
            self.gone_at[key] = self.newest[key] = self.history[key]
            self.tree.bury(Key(key))
        else:
            self.keep(key, self.info(key))
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
        before = {version_of(self.local[key]), self.mtimes.get(key, ("", 0, 0))[0]}
        if (theirs.version if theirs is not None else None) in before:
            return  # nobody was
        inode = self.local.pop(key)
        self.owed.discard(key)
        self.touched(key)
        self.inos.pop(key, None)
        if key in self.store:
            self.tree.concede(inode, self.store[key], self.tree.ask())
            self.believed[key] = self.store[key]
        else:
            self.tree.bury(Key(key), self.tree.ask())
            self.tree.expel(inode)
            self.gone_at[key] = self.history[key]

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
    def what_is_shown_never_goes_back(self) -> None:
        for key, info in self.believed.items():
            reached = self.reached[info.version]
            assert reached >= self.newest[key]
            self.newest[key] = reached

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
            version, ino, mtime = self.mtimes.get(key, ("", 0, 0))
            if (version, ino) == (info.version, inode.ino):
                assert inode.mtime_ns == mtime
            self.mtimes[key] = (info.version, inode.ino, inode.mtime_ns)


TreeModel.TestCase.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, derandomize=True, report_multiple_bugs=False
)
TestTreeModel = TreeModel.TestCase
