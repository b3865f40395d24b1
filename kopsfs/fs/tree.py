"""What do we believe the mounted tree looks like?

`Tree` is the inode table: every name, with what the store last said of it and what has been done to
it here since. It is synchronous on purpose. Between two awaits a task is alone, so a method of
`Tree` is a transaction, needs no lock, and can be tested without an event loop. Code that needs the
network first awaits, then looks again, then calls here.

An inode is *stored* (the store has it: `info`), *owed* (written here, not yet in the store), or
*local* (lives only here). Two remote versions never share an inode while somebody has it open: the
name gets a new inode and the old one, *superseded*, serves its handles to the end (the kernel's
page cache belongs to the inode, so versions would mix).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator

from kopsfs.errors import ExistsError, NoEntryError, NotDirectoryError, NotEmptyError
from kopsfs.fs import names
from kopsfs.fs.inode import FORMAT, ROOT, Change, Ino, Inode, Kind
from kopsfs.fs.journal import Attribute
from kopsfs.store.driver import Key, ObjectInfo, Version


class Tree:
    """The inode table.

    INVARIANT: every child's `parent` and `name` lead back to it.
    INVARIANT: `stored` maps exactly the keys of linked inodes with an `info` to them.
    INVARIANT: an inode is in `inodes` while it has a name, a lookup or a handle.
    """

    def __init__(self, *, prefix: str, now_ns: Callable[[], int], attributes: dict[str, Attribute]) -> None:
        self.prefix = prefix
        self.now_ns = now_ns
        self.serial = 0
        """Numbers questions to the store, and what happens here or is learnt: what an answer is too old for."""
        self.inodes: dict[Ino, Inode] = {}
        self.stored: dict[Key, Inode] = {}
        self.unreachable: set[Key] = set()
        self.unsure: set[Key] = set()
        """Keys of which two questions, under way at the same time, learnt different things: to be asked once more."""
        self.markers: dict[str, ObjectInfo] = {}
        """Directory markers (`a/`, zero bytes, made by some consoles) by the directory's path; removed by rmdir."""
        self.owed: Callable[[str], bool] = lambda _path: False
        """Does the journal owe the store something of this path? Set by whoever joins the two."""
        self._attributes = attributes
        self._tombstones: dict[Key, tuple[int, int]] = {}
        """What is known to be gone: number of the question that showed it, and the serial when it did."""
        self._next = int(ROOT)
        self.root = self._new("dir")
        self.root.lookups = 1

    # --- finding ---------------------------------------------------------------------------------------------------

    def get(self, ino: int) -> Inode:
        """The inode of this number; the kernel never asks for one it was not given."""
        return self.inodes[Ino(ino)]

    def path(self, inode: Inode) -> str:
        """The inode's path; of one without a name the path its writes belong to."""
        parts = []
        node = inode
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        if node is not self.root:
            return inode.base_path or ""
        parts.reverse()
        return "/".join(parts)

    def key(self, inode: Inode) -> Key:
        """The key of the object this file stands for."""
        if inode.key is not None:
            return inode.key
        return Key(self.path(inode))

    def linked(self, inode: Inode) -> bool:
        """Does it have a name?"""
        return inode.parent is not None or inode is self.root

    def find(self, path: str) -> Inode | None:
        """What the tree has at this path."""
        node: Inode | None = self.root
        for name in path.split("/") if path else ():
            if node is None or node.children is None:
                return None
            node = node.children.get(name)
        return node

    def child(self, parent: Inode, name: str) -> Inode | None:
        """What the directory has under this name. Raises NotDirectoryError."""
        if parent.children is None:
            raise NotDirectoryError(name)
        return parent.children.get(name)

    def below(self, top: Inode) -> Iterator[Inode]:
        """Everything below a directory, parents first."""
        stack = [iter(list((top.children or {}).values()))]
        while stack:
            for inode in stack[-1]:
                yield inode
                if inode.children:
                    stack.append(iter(list(inode.children.values())))
                    break
            else:
                stack.pop()

    def mode(self, inode: Inode) -> int:
        """st_mode."""
        if inode.kind == "link":
            return stat.S_IFLNK | 0o777
        bits = inode.mode
        if bits is None:
            bits = names.default_mode(self.prefix + self.path(inode), directory=inode.is_dir)
        return FORMAT[inode.kind] | bits

    # --- changes made here -----------------------------------------------------------------------------------------

    def make(self, parent: Inode, name: str, kind: Kind) -> Inode:
        """A new inode under a name that is free. Raises ExistsError, NoEntryError."""
        if self.child(parent, name) is not None:
            raise ExistsError(name)
        if not self.linked(parent):
            raise NoEntryError(name)
        inode = self._new(kind)
        self._link(parent, name, inode)
        self.touch(parent)
        return inode

    def expect(self, parent: Inode, name: str) -> Inode:
        """A directory that every cluster has: it answers, but is not listed before something is in it."""
        inode = self._new("dir")
        inode.expected = True
        self._link(parent, name, inode)
        return inode

    def unlink(self, inode: Inode) -> None:
        """Take its name away; it lives on while somebody refers to it."""
        parent = inode.parent
        assert parent is not None
        if inode.children:
            raise NotEmptyError(inode.name)
        self._unlink(inode)
        inode.key = None  # what is written to it from now on belongs nowhere
        self.touch(parent)
        inode.ctime_ns = self.now_ns()
        self._reap(inode)

    def move(self, inode: Inode, parent: Inode, name: str) -> None:
        """Give it another name; what has that name must have been unlinked. The inode stays the same."""
        old = inode.parent
        assert old is not None
        assert self.child(parent, name) is None
        assert inode.info is None, "what is stored must be disowned first: its key is about to change"
        self._unlink(inode)
        self._link(parent, name, inode)
        inode.key = None
        self.touch(old)
        self.touch(parent)
        inode.ctime_ns = self.now_ns()
        self.bump(inode)

    def touch(self, directory: Inode) -> None:
        """A name came or went: the directory's times move."""
        directory.mtime_ns = directory.ctime_ns = max(self.now_ns(), directory.mtime_ns + 1)

    def ask(self) -> int:
        """Number a question to the store, before it is asked: GET, HEAD or LIST."""
        self.serial += 1
        return self.serial

    def bump(self, inode: Inode) -> None:
        """Something happened here: answers to what was asked before this moment do not know of it."""
        self.serial += 1
        inode.serial = inode.asked = self.serial

    def disown(self, inode: Inode) -> None:
        """Its bytes are ours now: what the store says under this key is not this file any more."""
        self._forget_stored(inode)
        inode.info = None
        self.bump(inode)

    def bury(self, key: Key, asked: int | None = None) -> None:
        """The object is gone, deleted by us or as question `asked` showed: one asked before may still show it."""
        self.serial += 1
        self._tombstones[key] = (self.serial if asked is None else asked, self.serial)
        if len(self._tombstones) > 20_000:
            for old in list(self._tombstones)[:10_000]:
                del self._tombstones[old]

    def settle(self, inode: Inode, info: ObjectInfo) -> None:
        """The store took what we owed: `info` is ours, and no time a program has seen moves."""
        self.bump(inode)
        self._tombstones.pop(info.key, None)
        if self.linked(inode):
            self._forget_stored(inode)
            inode.info = info
            self._remember_stored(inode)
        else:
            inode.info = info

    # --- changes made elsewhere ------------------------------------------------------------------------------------

    def apply(self, infos: Iterable[ObjectInfo], asked: int) -> list[Change]:
        """Take over what the answer to question `asked` says.

        Semantics: an answer never overrules what happened here, or was learnt by another answer, after it was asked
        for. Where it differs from one that was asked for before it, either may be the newer: `unsure`.
        """
        changes: list[Change] = []
        for info in infos:
            inode = self.stored.get(info.key)
            if inode is not None:
                assert inode.info is not None
                if inode.info.version != info.version and not self.owed(info.key) and self._newer(inode, asked):
                    changes.append(self._update(inode, info, asked))
                continue
            shown, heard = self._tombstones.get(info.key, (0, 0))
            if self.owed(info.key):
                continue
            if heard <= asked:
                changes += self._appear(info, asked)
            elif shown < asked:
                self.unsure.add(info.key)
        return changes

    def missing(self, seen: set[Key], asked: int, inside: Callable[[Key], bool]) -> list[Key]:
        """Keys we believe in that a complete listing did not show: candidates, to be confirmed first."""
        return [
            key
            for key, inode in self.stored.items()
            if key not in seen and inside(key) and not self.owed(key) and self._newer(inode, asked)
        ]

    def vanish(self, key: Key, asked: int) -> Change | None:
        """An object is gone from the store: so is its name, and directories that were only there for it."""
        inode = self.stored.get(key)
        if inode is None or inode.parent is None or self.owed(key) or not self._newer(inode, asked):
            return None
        self.bury(key, asked)
        return self.expel(inode)

    def unmark(self, key: str) -> Inode | None:
        """A directory's marker is gone from the store; the directory, if there was one and it is shown."""
        if not key.endswith("/") or self.markers.pop(key[:-1], None) is None:
            return None
        return self.find(key[:-1])

    def _newer(self, inode: Inode, asked: int) -> bool:
        """Was this asked after all that is known of a stored file?"""
        if inode.serial <= asked:
            return True
        if inode.asked < asked and inode.info is not None:
            self.unsure.add(inode.info.key)
        return False

    def expel(self, inode: Inode) -> Change:
        """A file written here lost against a deletion: its name goes, its handles keep the bytes."""
        parent, name = inode.parent, inode.name
        assert parent is not None
        path = self.path(inode)
        self._unlink(inode)
        self.touch(parent)
        inode.base_path = inode.key or path
        self._reap(inode)
        return Change("delete", parent, name, inode, path)

    def prune(self, directory: Inode, keep: Callable[[str], bool]) -> list[Change]:
        """Remove directories that nothing in the store or here stands for any more, upwards."""
        changes = []
        while directory is not self.root and not directory.children and directory.parent is not None:
            path = self.path(directory)
            if keep(path):
                break
            parent, name = directory.parent, directory.name
            self._unlink(directory)
            self.touch(parent)
            self._reap(directory)
            changes.append(Change("delete", parent, name, directory, path))
            changes += self.unshadow(parent, name)
            directory = parent
        return changes

    def ensure_directory(self, path: str) -> tuple[Inode, list[Change]]:
        """The directory at `path`, made on the way if the store shows that it is there."""
        node = self.root
        changes: list[Change] = []
        done = ""
        for name in path.split("/") if path else ():
            done = f"{done}/{name}" if done else name
            child = node.children.get(name) if node.children is not None else None
            if child is not None and not child.is_dir:
                changes += self._shadow(child)
                child = None
            if child is None:
                child = self._new("dir")
                self._link(node, name, child)
                self._restore(child)
                self.touch(node)
                changes.append(Change("create", node, name, child, done))
            elif child.expected:
                child.expected = False
                changes.append(Change("create", node, name, child, done))
            node = child
        return node, changes

    def _appear(self, info: ObjectInfo, asked: int) -> list[Change]:
        parts = names.components(info.key)
        if parts is None:
            self.unreachable.add(info.key)
            return []
        if info.key.endswith("/"):
            path = "/".join(parts)
            self.markers[path] = info
            return self.ensure_directory(path)[1]
        directory, changes = self.ensure_directory("/".join(parts[:-1]))
        name = parts[-1]
        assert directory.children is not None
        existing = directory.children.get(name)
        if existing is not None and existing.is_dir:
            name += names.SHADOW_SUFFIX
            if name in directory.children or len(name.encode()) > names.NAME_BYTES_MAX:
                self.unreachable.add(info.key)
                return changes
        elif existing is not None:
            if existing.local or existing.serial > asked or existing.info is not None:
                return changes
            return [*changes, self._update(existing, info, asked)]
        inode = self._new("file")
        inode.info = info
        if name != parts[-1]:
            inode.key = info.key
        self._link(directory, name, inode)
        inode.asked = asked
        self._restore(inode)
        self._date(inode, info)
        self._remember_stored(inode)
        directory.mtime_ns = directory.ctime_ns = max(directory.mtime_ns, inode.mtime_ns)
        changes.append(Change("create", directory, name, inode, self.path(inode)))
        return changes

    def _update(self, inode: Inode, info: ObjectInfo, asked: int) -> Change:
        """A newer version under a name: in place, or in a new inode where the old one is open."""
        parent, name = inode.parent, inode.name
        assert parent is not None
        if inode.opens == 0 and inode.spool is None:
            self._forget_stored(inode)
            inode.info = info
            inode.moved = True
            self.bump(inode)
            inode.asked = asked
            self._date(inode, info)
            self._remember_stored(inode)
            return Change("modify", parent, name, inode, self.path(inode))
        return self._supersede(inode, info, asked)

    def _supersede(self, inode: Inode, info: ObjectInfo, asked: int) -> Change:
        """The name gets a new inode with this version; the old one keeps its handles, bytes and path for writes."""
        parent, name = inode.parent, inode.name
        assert parent is not None
        assert parent.children is not None
        path = self.path(inode)
        fresh = self._new("file")
        fresh.info, fresh.key = info, inode.key
        fresh.mode, fresh.uid, fresh.gid, fresh.xattrs = inode.mode, inode.uid, inode.gid, inode.xattrs
        fresh.mtime_ns = inode.mtime_ns
        self._forget_stored(inode)
        parent.children[name] = fresh
        fresh.parent, fresh.name = parent, name
        inode.parent = None
        inode.base_path = inode.key or path
        fresh.moved = True
        self.bump(fresh)
        fresh.asked = asked
        self._date(fresh, info)
        self._remember_stored(fresh)
        self._reap(inode)
        return Change("modify", parent, name, fresh, path, inode)

    def concede(self, inode: Inode, info: ObjectInfo, asked: int) -> Change:
        """A file written here lost against this version: it gets the name, and handles keep the bytes that lost."""
        if inode.opens:
            return self._supersede(inode, info, asked)
        if inode.spool is not None:
            inode.spool.close()
            inode.spool = None
        return self._update(inode, info, asked)

    def _shadow(self, inode: Inode) -> list[Change]:
        """A directory of its name has appeared: the file stays reachable under its alias."""
        parent, name = inode.parent, inode.name
        assert parent is not None
        assert parent.children is not None
        key, path = self.key(inode), self.path(inode)
        self._unlink(inode)
        alias = name + names.SHADOW_SUFFIX
        if alias in parent.children or len(alias.encode()) > names.NAME_BYTES_MAX:
            self.unreachable.add(key)
            inode.base_path = key
            self._reap(inode)
            return []
        inode.key = key
        self._relink(parent, alias, inode)
        return [Change("create", parent, alias, inode, path + names.SHADOW_SUFFIX)]

    def unshadow(self, parent: Inode, name: str) -> list[Change]:
        """The directory of its name has gone: the file has the name again."""
        assert parent.children is not None
        alias = name + names.SHADOW_SUFFIX
        inode = parent.children.get(alias)
        if inode is None or inode.key is None:
            return []
        old_path = self.path(inode)
        self._unlink(inode)
        inode.key = None
        self._relink(parent, name, inode)
        path = self.path(inode)
        return [Change("delete", parent, alias, inode, old_path), Change("create", parent, name, inode, path)]

    def file_at(self, key: str) -> Inode | None:
        """The file whose writes go to this key, whatever name it has."""
        inode = self.find(key)
        if inode is not None and inode.is_dir:
            inode = self.find(key + names.SHADOW_SUFFIX)
            return inode if inode is not None and inode.key == key else None
        return inode

    def ensure_file(self, parent: Inode, key: str) -> Inode | None:
        """The same, made if there is none; None where neither its name nor its alias is free."""
        name = key.rpartition("/")[2]
        existing = self.child(parent, name)
        if existing is None:
            return self.make(parent, name, "file")
        if not existing.is_dir:
            return existing
        inode = self.child(parent, name + names.SHADOW_SUFFIX)
        if inode is None:
            inode = self.make(parent, name + names.SHADOW_SUFFIX, "file")
            inode.key = Key(key)
        return inode if inode.key == key else None

    def _date(self, inode: Inode, info: ObjectInfo) -> None:
        """Mtime of a version: ours if we made it, else the store's; always later than the one before it."""
        known = self._attributes.get(self.path(inode))
        if known is not None and known.mtime_ns is not None and known.version == info.version:
            inode.mtime_ns = inode.ctime_ns = known.mtime_ns
            return
        derived = names.mtime_ns(info.mtime_ns, info.version)
        inode.mtime_ns = max(derived, inode.mtime_ns + 1) if inode.moved else derived
        inode.ctime_ns = inode.atime_ns = inode.mtime_ns

    # --- the kernel's references -----------------------------------------------------------------------------------

    def remember(self, inode: Inode) -> None:
        """The kernel is told of it once more."""
        inode.lookups += 1

    def forget(self, ino: int, count: int) -> None:
        """The kernel gives references back."""
        inode = self.inodes.get(Ino(ino))
        if inode is None:
            return
        assert inode.lookups >= count, (inode, inode.lookups, count)
        inode.lookups -= count
        self._reap(inode)

    def closed(self, inode: Inode) -> None:
        """A handle ended."""
        self._reap(inode)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _new(self, kind: Kind) -> Inode:
        inode = Inode(Ino(self._next), kind, self.now_ns())
        self._next += 1
        self.inodes[inode.ino] = inode
        return inode

    def _link(self, parent: Inode, name: str, inode: Inode) -> None:
        assert parent.children is not None
        assert name not in parent.children
        parent.children[name] = inode
        inode.parent, inode.name = parent, name
        parent.subdirs += inode.is_dir
        self.bump(inode)
        node: Inode | None = None if inode.expected else parent
        while node is not None and node.expected:
            node.expected = False
            node = node.parent

    def _relink(self, parent: Inode, name: str, inode: Inode) -> None:
        """Another name for the same object, of which nothing new is known."""
        known = inode.serial, inode.asked
        self._link(parent, name, inode)
        inode.serial, inode.asked = known
        self._remember_stored(inode)

    def _unlink(self, inode: Inode) -> None:
        parent = inode.parent
        assert parent is not None
        assert parent.children is not None
        self._forget_stored(inode)
        del parent.children[inode.name]
        parent.subdirs -= inode.is_dir
        inode.parent = None

    def _remember_stored(self, inode: Inode) -> None:
        if inode.info is not None:
            self.stored[inode.info.key] = inode

    def _forget_stored(self, inode: Inode) -> None:
        if inode.info is not None and self.stored.get(inode.info.key) is inode:
            del self.stored[inode.info.key]

    def _restore(self, inode: Inode) -> None:
        """Give a name that appears what was remembered of it."""
        known = self._attributes.get(self.path(inode))
        if known is None:
            return
        inode.mode, inode.uid, inode.gid = known.mode, known.uid, known.gid
        inode.xattrs = dict(known.xattrs) if known.xattrs else None
        if inode.is_dir and known.mtime_ns is not None:
            inode.mtime_ns = inode.ctime_ns = known.mtime_ns

    def _reap(self, inode: Inode) -> None:
        if inode.parent is None and inode.lookups == 0 and inode.opens == 0 and inode is not self.root:
            self.inodes.pop(inode.ino, None)
            if inode.spool is not None:
                inode.spool.close()
                inode.spool = None

    def check(self) -> None:
        """Assert the invariants; O(inodes)."""
        linked = {self.root.ino: self.root}
        stored = {}
        for inode in self.below(self.root):
            linked[inode.ino] = inode
            assert inode.parent is not None
            assert inode.parent.children is not None
            assert inode.parent.children[inode.name] is inode
            assert self.inodes.get(inode.ino) is inode
            if inode.info is not None:
                assert self.key(inode) == inode.info.key, (inode, inode.info.key)
                stored[inode.info.key] = inode
        assert stored == self.stored
        for ino, inode in self.inodes.items():
            assert inode.ino == ino
            assert ino in linked or inode.lookups > 0 or inode.opens > 0, inode
            if inode.children is not None:
                assert inode.subdirs == sum(c.is_dir for c in inode.children.values())


def version_of(inode: Inode) -> Version | None:
    """The store's version of it, if it is stored."""
    return inode.info.version if inode.info is not None else None
