"""What is a state store, and how is it asked? Nothing of file systems here.

`open_store(url)` gives a `Store`; read `driver.py` for the contract below it.
"""

from kopsfs.store.driver import ABSENT, ANY, Capabilities, Expected, Key, ObjectInfo, Page, Prefix, Version
from kopsfs.store.store import Deliver, Health, Store
from kopsfs.store.url import Location, Settings, cloud_for, open_driver, open_store, parse

__all__ = [
    "ABSENT",
    "ANY",
    "Capabilities",
    "Deliver",
    "Expected",
    "Health",
    "Key",
    "Location",
    "ObjectInfo",
    "Page",
    "Prefix",
    "Settings",
    "Store",
    "Version",
    "cloud_for",
    "open_driver",
    "open_store",
    "parse",
]
