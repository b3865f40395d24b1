"""What do create, mkdir, unlink, rmdir, symlink and rename do?

Names change in the tree and in the journal in one stretch without an await, then the change is made
durable, then the call returns. A file that never reached the store leaves no trace there; an
editor's save by rename is one PUT of the final name (design §5, *rename*).
"""

from __future__ import annotations

import logging
import stat
import time
from dataclasses import dataclass
from typing import Final

from kopsfs.errors import (
    CrossDeviceError,
    ExistsError,
    IsDirectoryError,
    NoEntryError,
    NotDirectoryError,
    NotEmptyError,
    NotPermittedError,
    NotSupportedError,
    ReadOnlyError,
    StaleError,
)
from kopsfs.fs import names
from kopsfs.fs.files import Files
from kopsfs.fs.inode import Inode, Kind
from kopsfs.fs.parts import Parts
from kopsfs.fs.spool import Generation, Spool
from kopsfs.fs.tree import version_of
from kopsfs.store.driver import ABSENT, Expected, Key

log = logging.getLogger(__name__)

RENAME_NOREPLACE: Final = 1
"""include/uapi/linux/fs.h"""

DIRECTORY_RENAME_MAX: Final = 1000
"""Stored files a directory may hold to be renamed in one piece; above that mv copies (EXDEV)."""

_TRIES: Final = 5
"""A directory in which files come and go faster than they can be gathered is ESTALE after so many rounds."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    uid: int
    gid: int
    thread: int
    umask: int = 0


class Namespace:
    """Changes of names."""

    def __init__(self, parts: Parts, files: Files) -> None:
        self.parts = parts
        self.files = files
        self.tree = parts.tree
        self.journal = parts.journal

    # --- making ----------------------------------------------------------------------------------------------------------

    def create(self, parent: Inode, name: str, mode: int, caller: Caller, *, exclusive: bool) -> Inode:
        """A new, empty file. Nothing is owed before its first flush. Raises ExistsError, BadNameError."""
        inode = self._make(parent, name, "file", mode, caller, exclusive=exclusive)
        inode.spool = Spool(self.parts.spool_directory, size_max=self.parts.size_max)
        return inode

    async def mkdir(self, parent: Inode, name: str, mode: int, caller: Caller) -> Inode:
        """A directory, which lives here until something is stored in it. Cost: 0."""
        existing = self.tree.child(parent, name)
        if existing is not None and existing.expected:
            existing.expected = False
            inode = existing
        else:
            inode = self._make(parent, name, "dir", mode, caller, exclusive=False)
        path = self.tree.path(inode)
        if not inode.local:
            self.parts.refresh.made(path)
        self.journal.keep_node(path, "dir")
        self.files.save_attributes(inode)
        self.parts.committer.wake()
        return inode

    async def symlink(self, parent: Inode, name: str, target: str, caller: Caller) -> Inode:
        """A link, which stays on this machine. Cost: 0."""
        inode = self._make(parent, name, "link", 0o777, caller, exclusive=False)
        inode.local = True
        inode.target = target
        self.journal.keep_node(self.tree.path(inode), "link", target=target)
        self.files.save_attributes(inode)
        await self.parts.committer.commit()
        return inode

    def _make(self, parent: Inode, name: str, kind: Kind, mode: int, caller: Caller, *, exclusive: bool) -> Inode:
        if self.parts.read_only:
            raise ReadOnlyError(name)
        local = parent.local or names.stays_local(name, exclusive=exclusive)
        if self.parts.writeback.read_only and not local and kind != "link":
            raise ReadOnlyError(self.parts.writeback.read_only)
        path = self._path(parent, name)
        names.check_key(path, self.tree.prefix, self.parts.store.capabilities.key_bytes_max)
        inode = self.tree.make(parent, name, kind)
        inode.local = local
        secret = names.is_secret(self.tree.prefix + path)
        inode.mode = stat.S_IMODE(mode) & (0o7700 if secret else 0o7777)
        setgid = self.tree.mode(parent) & stat.S_ISGID
        gid = parent.gid if setgid and parent.gid is not None else caller.gid
        if setgid and kind == "dir":
            inode.mode |= stat.S_ISGID
        inode.uid = caller.uid if caller.uid != self.parts.uid else None
        inode.gid = gid if gid != self.parts.gid else None
        return inode

    def _path(self, parent: Inode, name: str) -> str:
        top = self.tree.path(parent)
        return f"{top}/{name}" if top else name

    # --- removing --------------------------------------------------------------------------------------------------------

    async def unlink(self, parent: Inode, name: str, caller: Caller) -> None:
        """The name goes at once; the object is deleted later, on the condition that it is what was seen. Cost: 1 DELETE."""
        inode = self._entry(parent, name)
        if inode.is_dir:
            raise IsDirectoryError(name)
        self._refuse(inode)
        self._remove_file(inode, caller)
        self._keep_if_empty(parent)
        # A name that comes back after a power cut is what every file system shows who has not asked fsyncdir.
        self.parts.committer.wake()

    def _remove_file(self, inode: Inode, caller: Caller) -> None:
        path = self.tree.path(inode)
        key = self.tree.key(inode)
        if inode.local:
            self.journal.drop_node(key)
        else:
            self._owe_deletion(inode, key, caller)
        self.journal.drop_attribute(path)
        self.parts.writeback.writers.pop(key, None)
        self.tree.unlink(inode)
        self.parts.writeback.poke(key)

    def _owe_deletion(
        self, inode: Inode, key: str, caller: Caller, *, after: int | None = None, due: float = 0.0
    ) -> None:
        current: Expected = version_of(inode) or ABSENT
        base = self.parts.seen.base(key, caller.thread, current) if current is not ABSENT else current
        self.journal.delete(key, base, after=after, due=due)
        self.tree.bury(self.tree.key(inode))

    def _keep_if_empty(self, directory: Inode) -> None:
        """Its last file went by our hand: the directory stays until rmdir, as everywhere."""
        if directory is self.tree.root or directory.children or not self.tree.linked(directory):
            return
        path = self.tree.path(directory)
        if path not in self.journal.nodes:
            self.journal.keep_node(path, "dir")
            self.files.save_attributes(directory)

    async def rmdir(self, parent: Inode, name: str) -> None:
        """Raises NotEmptyError. Cost: 0; 1 DELETE if the store has a marker for it."""
        inode = self._entry(parent, name)
        if not inode.is_dir:
            raise NotDirectoryError(name)
        self._refuse(inode)
        assert inode.children is not None
        if any(not child.expected for child in inode.children.values()):
            raise NotEmptyError(name)
        self._remove_directory(inode)
        self.parts.refresh.tell(self.tree.unshadow(parent, name))
        self._keep_if_empty(parent)
        self.parts.committer.wake()

    def _remove_directory(self, inode: Inode) -> None:
        assert inode.children is not None
        for child in list(inode.children.values()):
            self.tree.unlink(child)
        path = self.tree.path(inode)
        marker = self.tree.markers.pop(path, None)
        if marker is not None:
            self.journal.delete(marker.key, marker.version)
            self.tree.bury(marker.key)
        self.journal.drop_node(path)
        self.journal.drop_attribute(path)
        self.tree.unlink(inode)
        if marker is not None:
            self.parts.writeback.poke(marker.key)

    # --- renaming --------------------------------------------------------------------------------------------------------

    async def rename(
        self, old_parent: Inode, old_name: str, new_parent: Inode, new_name: str, flags: int, caller: Caller
    ) -> None:
        """Give it another name. Cost: 1 PUT (0 if the bytes were not uploaded under the old name: the same one), 0-1 DELETE.

        Raises CrossDeviceError for a directory of more than 1,000 stored files.
        """
        if flags & ~RENAME_NOREPLACE:
            raise NotSupportedError("RENAME_EXCHANGE")
        inode = self._entry(old_parent, old_name)
        if not self._check_target(inode, new_parent, new_name, flags):
            return
        self._refuse(inode)
        path = self._path(new_parent, new_name)
        names.check_key(path, self.tree.prefix, self.parts.store.capabilities.key_bytes_max)
        try:
            for _ in range(_TRIES):
                await self._gather(inode, new_parent, new_name)
                # Others may have come between: look again before anything changes.
                self._still(inode, old_parent, old_name)
                if not self._check_target(inode, new_parent, new_name, flags):
                    raise NoEntryError(old_name)
                bytes_of = self._freeze(inode, new_parent, new_name)
                if bytes_of is not None:
                    break
            else:
                raise StaleError(old_name)
        except BaseException:
            self._let_go(inode)
            raise
        target = self.tree.child(new_parent, new_name)
        if inode.is_dir:
            self._move_directory(inode, target, new_parent, new_name, bytes_of, caller)
        else:
            self._move_file(inode, target, new_parent, new_name, bytes_of.get(inode), caller)
        self._keep_if_empty(old_parent)
        await self.parts.committer.commit()
        self._poke(inode)

    def _still(self, inode: Inode, parent: Inode, name: str) -> None:
        """Raises NoEntryError where the name is gone, StaleError (the kernel looks it up again) where it is another's."""
        present = self.tree.child(parent, name)
        if present is not inode:
            raise NoEntryError(name) if present is None else StaleError(name)

    def _check_target(self, inode: Inode, parent: Inode, name: str, flags: int) -> bool:
        """May it take this name? False where it has it already."""
        if not self.tree.linked(parent):
            raise NoEntryError(name)
        target = self.tree.child(parent, name)
        if target is None:
            return True
        if flags & RENAME_NOREPLACE:
            raise ExistsError(name)
        if target is inode:
            return False
        if inode.is_dir and not target.is_dir:
            raise NotDirectoryError(name)
        if target.is_dir and not inode.is_dir:
            raise IsDirectoryError(name)
        if target.is_dir and any(not c.expected for c in (target.children or {}).values()):
            raise NotEmptyError(name)
        if inode.kind == "link" and not target.local:
            raise NotPermittedError("a symlink over a stored name")
        return True

    async def _gather(self, inode: Inode, parent: Inode, name: str) -> None:
        """Have the bytes at hand of every file that will be put under a new key. Cost: 1 GET for each not cached."""
        if inode.is_dir:
            await self._complete(inode)
            stored = sum(i.kind == "file" and not i.local for i in self.tree.below(inode))
            if stored > DIRECTORY_RENAME_MAX or (stored and self._becomes_local(parent, name)):
                raise CrossDeviceError(name)
        for file in self._files_to_carry(inode, parent, name):
            await self.files.begin(file)

    def _freeze(self, inode: Inode, parent: Inode, name: str) -> dict[Inode, Generation] | None:
        """The bytes of those files as they are now; None if one has come, or gone to the store, since they were gathered."""
        frozen = {}
        for file in self._files_to_carry(inode, parent, name):
            if file.spool is None:
                return None
            frozen[file] = file.spool.freeze()
        return frozen

    def _files_to_carry(self, inode: Inode, parent: Inode, name: str) -> list[Inode]:
        if not inode.is_dir:
            return [] if inode.kind == "link" else [inode]
        if inode.local and self._becomes_local(parent, name):
            return []
        return [i for i in self.tree.below(inode) if i.kind == "file"]

    def _becomes_local(self, parent: Inode, name: str) -> bool:
        return parent.local or names.stays_local(name, exclusive=False)

    def _let_go(self, inode: Inode) -> None:
        """Nothing came of it: what was only gathered is not kept."""
        for file in [inode, *self.tree.below(inode)]:
            if file.opens == 0:
                self.files.let_go(file)

    async def _complete(self, directory: Inode) -> None:
        """Know everything below it."""
        if directory.local:
            return
        await self.parts.refresh.directory(self.tree.path(directory))
        for child in list((directory.children or {}).values()):
            if child.is_dir:
                await self._complete(child)

    def _move_file(
        self,
        inode: Inode,
        target: Inode | None,
        parent: Inode,
        name: str,
        generation: Generation | None,
        caller: Caller,
    ) -> None:
        path = self._path(parent, name)
        key = path if target is None else self.tree.key(target)
        base: Expected = ABSENT
        if not self.journal.owed(key):
            current: Expected = ABSENT if target is None else (version_of(target) or ABSENT)
            base = self.parts.seen.base(key, caller.thread, current)
        in_store = target.info.size if target is not None and target.info is not None else -1
        target_local = target is not None and target.local
        if target is not None:
            self._clear(target, path)
        becomes_local = inode.kind == "link" or self._becomes_local(parent, name)
        # Semantics: a name that exists in the store is a stored name, whatever it looks like.
        if target is not None and not target_local and not parent.local and inode.kind != "link":
            becomes_local = False
        self._carry(inode, parent, name, key, generation, base, in_store, becomes_local=becomes_local, caller=caller)

    def _clear(self, target: Inode, path: str) -> None:
        """What has the name makes room; what is owed of the path is inherited by what comes."""
        if target.local:
            self.journal.drop_node(self.tree.key(target))
        self.journal.drop_attribute(path)
        self.parts.writeback.writers.pop(self.tree.key(target), None)
        self.tree.unlink(target)

    def _carry(
        self,
        inode: Inode,
        parent: Inode,
        name: str,
        key: str,
        generation: Generation | None,
        base: Expected,
        in_store: int,
        *,
        becomes_local: bool,
        caller: Caller,
    ) -> None:
        """Move one file or link, and what is owed with it; `key` differs from the path where a directory has the name."""
        old_path, old_key = self.tree.path(inode), self.tree.key(inode)
        new_path = self._path(parent, name)
        was_local, was_info = inode.local, inode.info
        self.parts.writeback.writers.pop(old_key, None)
        put = None
        if inode.kind == "link":
            self.journal.keep_node(key, "link", target=inode.target)
        elif becomes_local:
            assert generation is not None
            self.journal.keep_node(key, "file", generation=generation)
            inode.generation = generation
        else:
            assert generation is not None
            held = self.parts.guard(key, generation.data, generation.size, in_store)
            if held:
                log.warning("op=write key=%s held: %s", key, held)
            put = self.journal.put(key, generation, base, ready=inode.writers == 0, held=held)
            inode.generation = None
            self.parts.writeback.writers[key] = inode
        if was_local:
            self.journal.drop_node(old_key)
        else:
            due = time.time() + self.parts.delete_delay_s if becomes_local else 0.0
            self._owe_deletion(inode, old_key, caller, after=put.id if put else None, due=due)
        self.journal.drop_attribute(old_path)
        if was_info is not None:
            self.tree.disown(inode)
        self.tree.move(inode, parent, name)
        if key != new_path:
            inode.key = Key(key)
        inode.local = becomes_local or inode.kind == "link"
        inode.base = None
        self.files.save_attributes(inode)
        self.parts.writeback.poke(old_key)

    def _move_directory(
        self,
        inode: Inode,
        target: Inode | None,
        parent: Inode,
        name: str,
        bytes_of: dict[Inode, Generation],
        caller: Caller,
    ) -> None:
        """One resumable intent per file, all in one commit: atomic here, not elsewhere."""
        if target is not None:
            self._remove_directory(target)
        old_path = self.tree.path(inode)
        new_path = self._path(parent, name)
        local = self._becomes_local(parent, name)
        below = list(self.tree.below(inode))
        owed = []
        for file in [inode, *below]:
            path = self.tree.path(file)
            moved = new_path + path[len(old_path) :]
            self.journal.drop_attribute(path)
            if file.is_dir:
                owed += self._carry_directory(file, path, moved, made=file is inode)
                file.local = local or (file.local and file is not inode)
            elif local or file.kind == "link" or (file.local and names.stays_local(file.name, exclusive=True)):
                node = self.journal.nodes.get(path)  # none where it was never closed: nothing of it is on disk
                if node is not None:
                    self.journal.keep_node(moved, node.kind, target=node.target, generation=node.generation)
                    self.journal.drop_node(path)
            else:
                owed.append(self._carry_below(file, len(old_path), new_path, bytes_of[file], caller))
        old_parent, old_name = inode.parent, inode.name
        assert old_parent is not None
        self.tree.move(inode, parent, name)
        self.parts.refresh.tell(self.tree.unshadow(old_parent, old_name))
        if not local:
            self.parts.refresh.made(new_path)
        for file in [inode, *below]:
            self.files.save_attributes(file)
        for key in owed:
            self.parts.writeback.poke(key)

    def _carry_directory(self, directory: Inode, path: str, moved: str, *, made: bool) -> list[str]:
        """What stands for a directory moves: the journal's node, and a console's marker becomes one."""
        marker = self.tree.markers.pop(path, None)
        if marker is not None:
            self.journal.delete(marker.key, marker.version)
            self.tree.bury(marker.key)
        if made or marker is not None or path in self.journal.nodes:
            self.journal.drop_node(path)
            self.journal.keep_node(moved, "dir")
        directory.expected = False
        return [] if marker is None else [marker.key]

    def _carry_below(self, file: Inode, cut: int, new_path: str, generation: Generation, caller: Caller) -> str:
        """One file of a directory: a put under the new key, then a deletion under the old; gives the old key."""
        key = self.tree.key(file)
        moved = new_path + key[cut:]
        self.parts.writeback.writers.pop(key, None)
        put = self.journal.put(moved, generation, ABSENT, ready=file.writers == 0)
        file.generation = None
        self.parts.writeback.writers[moved] = file
        if file.local:
            self.journal.drop_node(key)
            file.local = False
        else:
            self._owe_deletion(file, key, caller, after=put.id)
        if file.info is not None:
            self.tree.disown(file)
        if file.key is not None:
            file.key = Key(moved)
        return key

    def _poke(self, inode: Inode) -> None:
        for file in [inode, *self.tree.below(inode)] if inode.is_dir else [inode]:
            if file.kind == "file":
                self.parts.writeback.poke(self.tree.key(file))

    # --- inside ------------------------------------------------------------------------------------------------------------

    def _entry(self, parent: Inode, name: str) -> Inode:
        inode = self.tree.child(parent, name)
        if inode is None:
            raise NoEntryError(name)
        return inode

    def _refuse(self, inode: Inode) -> None:
        if self.parts.read_only or (self.parts.writeback.read_only and not inode.local):
            raise ReadOnlyError(inode.name)
