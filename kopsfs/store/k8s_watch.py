"""What changes in an API server, as it tells by itself?

One thread per kind follows a watch and names the keys that were written or removed, by whomever; the prefix of everything
where it may have missed something. What it tells is a hint: nothing is ever answered from it, so a watch that has died
without a word costs time, not truth. Bookmarks keep its place fresh; an answer that ends or breaks is followed by another
from the same place; a place the server has forgotten (410) by a new one and the hint that anything may have changed. A
connection over which nothing comes for a while, bookmarks included, is half open and is given up.

Source: Kubernetes "API concepts" (Efficient detection of changes, Watch bookmarks, 410 Gone responses); the watch cache
sends a bookmark about once a minute (apiserver pkg/storage/cacher, bookmarkFrequency).
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from kopsfs.errors import DeniedError, StoreError, StoreGoneError
from kopsfs.store.driver import Key
from kopsfs.store.k8s_api import Api, Ask, ExpiredError
from kopsfs.store.k8s_layout import FILE_TYPE, KINDS, SECRETS, Kind, Object

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 300
"""After which the server is asked to end the answer; another follows."""
SILENCE_S: Final = 90.0
"""Longer than between two bookmarks."""
PAUSE_FIRST_S: Final = 0.5
PAUSE_MAX_S: Final = 30.0
DENIED_PAUSE_S: Final = 300.0
STOP_S: Final = 2.0
"""All threads together: one that waits for an answer to begin is left behind, silent."""
EVERYTHING: Final = Key("")

Name = Callable[[Kind, Object], Key | None]
"""Gives the key of an object that a watch showed."""


class Feed:
    """Threads that follow the watches of one scope from now until `stop`."""

    def __init__(
        self,
        api: Api,
        scope: str,
        name: Name,
        changed: Callable[[Key], None],
        *,
        silence_s: float = SILENCE_S,
        pause_first_s: float | None = None,
    ) -> None:
        self._api = api
        self._scope = scope
        self._name = name
        self._changed = changed
        self._silence_s = silence_s
        self._pause_first_s = PAUSE_FIRST_S if pause_first_s is None else pause_first_s
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[Kind, Any] = {}
        self.state: dict[str, str] = {}
        """Resource → `watching`, or why not."""
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), name=f"kopsfs-watch-{kind.plural}", daemon=True)
            for kind in KINDS
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; may be called twice, from any of them."""
        self._stopped.set()
        with self._lock:
            answers = list(self._open.values())
        for answer in answers:
            with contextlib.suppress(Exception):
                answer.shutdown()
        until = time.monotonic() + STOP_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # -- a thread ----------------------------------------------------------------------------------

    def _run(self, kind: Kind) -> None:
        version, pause = "", self._pause_first_s
        while not self._stopped.is_set():
            try:
                if not version:
                    version = self._begin(kind)
                version, heard = self._follow(kind, version)
            except ExpiredError:
                version, heard = "", True
            except (DeniedError, StoreGoneError) as error:
                self._note(kind, error.detail)
                log.info("changes of %s are found by polling only: %s", kind.name, error)
                self._stopped.wait(DENIED_PAUSE_S)
                version, heard = "", False
            except StoreError as error:
                self._note(kind, str(error))
                log.info("watch of %s broke: %s", kind.name, error)
                heard = False
            pause = self._pause_first_s if heard else min(PAUSE_MAX_S, pause * 2)
            self._stopped.wait(pause * (0.5 + random.random() / 2))  # noqa: S311  jitter

    def _note(self, kind: Kind, state: str) -> None:
        if not self._stopped.is_set():
            self.state[kind.name] = state

    def _begin(self, kind: Kind) -> str:
        """Find a place to start from; what happened before it is told as one hint. Cost: 1 LIST of one object."""
        query = {"limit": "1", **_selection(kind)}
        accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
        said = self._api.ask(Ask("watch", "", "list", kind, self._scope, query=query, accept=accept))
        version = str((said.get("metadata") or {}).get("resourceVersion") or "")
        if not self._stopped.is_set():
            self._changed(EVERYTHING)
        return version

    def _follow(self, kind: Kind, version: str) -> tuple[str, bool]:
        """Follow one answer to its end; give where to go on, and whether anything came."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(TIMEOUT_S),
            **_selection(kind),
        }
        ask = Ask("watch", "", "watch", kind, self._scope, query=query)
        heard = False
        try:
            for event in self._api.lines(ask, read_s=self._silence_s, opened=lambda answer: self._opened(kind, answer)):
                if self._stopped.is_set():
                    break
                heard = True
                item = event.get("object") or {}
                if event.get("type") == "ERROR":
                    self._fail(item)
                version = str((item.get("metadata") or {}).get("resourceVersion") or version)
                if event.get("type") in {"ADDED", "MODIFIED", "DELETED"}:
                    key = self._name(kind, item)
                    if key is not None:
                        self._changed(key)
        except ExpiredError:
            raise
        except StoreError as error:
            if self._stopped.is_set():
                return version, heard
            if not heard:
                raise
            log.info("watch of %s goes on from where it broke: %s", kind.name, error)
        finally:
            with self._lock:
                self._open.pop(kind, None)
        return version, heard

    def _opened(self, kind: Kind, answer: Any) -> None:
        with self._lock:
            self._open[kind] = answer
        self._note(kind, "watching")
        if self._stopped.is_set():
            answer.shutdown()

    @staticmethod
    def _fail(status: Object) -> None:
        words = " ".join(str(status.get("message") or "the watch failed").split())
        if status.get("code") == 410:
            raise ExpiredError("watch", "", words)
        raise StoreError("watch", "", words)


def _selection(kind: Kind) -> dict[str, str]:
    return {"fieldSelector": f"type={FILE_TYPE}"} if kind is SECRETS else {}
