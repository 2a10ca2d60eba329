"""The sites that a question goes to: their addresses and keys, from the command line and from files."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fieldstone.errors import SitesError


@dataclass(frozen=True, slots=True)
class Site:
    """A server that is asked: `url` without a path behind it, and the key that the site made for us.

    Without a `workspace` the site's first one that the key opens. `ca` is a file with the certificates to
    trust in the place of the usual ones.
    """

    name: str
    url: str
    key: str = field(default="", repr=False)
    workspace: str = ""
    ca: str = ""


def read_sites(given: Sequence[str]) -> list[Site]:
    """The sites of URLs and of TOML files that list them as `[[sites]]`.

    Raises SitesError for a file that others may read, for a URL that is none, and for one that would send
    question and key in the clear to another machine.
    """
    sites: list[Site] = []
    for one in given:
        found = [Site(one, one)] if "://" in one else _in_file(Path(one))
        sites += [_checked(site) for site in found]
    names = [site.name for site in sites]
    if not sites:
        raise SitesError("there is no site to ask; give a URL, or a file with [[sites]] in it")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SitesError(f"two sites go by the name {twice[0]!r}; give each a name of its own")
    return sites


def _in_file(path: Path) -> list[Site]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            tree = tomllib.load(file)
        sites = TypeAdapter(list[Site], config=ConfigDict(extra="forbid")).validate_python(tree.get("sites"))
    except OSError as error:
        raise SitesError(f"{path} cannot be read ({error.strerror}); give a URL or a file of sites") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SitesError(f"{path} is not valid TOML ({error})") from None
    except ValidationError as error:  # the value is not told: it may be a key
        first = error.errors()[0]
        raise SitesError(
            f"{path}: sites.{'.'.join(map(str, first['loc']))}: {first['msg']}; "
            'write [[sites]] with name = "…", url = "https://…", key = "fs_…"'
        ) from None
    if os.name == "posix" and mode & 0o077 and any(site.key for site in sites):
        raise SitesError(f"others may read {path}, and there are keys in it; type: chmod 600 {path}")
    return sites


def _checked(site: Site) -> Site:
    """The site with its URL in the form that is used. Raises SitesError where it cannot be used."""
    import httpx

    try:
        url = httpx.URL(site.url.rstrip("/"))
        good = url.scheme in ("http", "https") and bool(url.host) and not (url.query or url.userinfo)
    except httpx.InvalidURL:
        good = False
    if not good or any(letter in site.url for letter in "?#"):
        raise SitesError(f"{site.url[:200]!r} is no address of a site; write https://host:port")
    if url.scheme == "http" and not _is_this_machine(url.host):
        raise SitesError(
            f"{site.url[:200]}: question and key would go in the clear over the network; write https://…"
        )
    if not site.key.isascii() or any(letter.isspace() for letter in site.key):
        raise SitesError(
            f"the key of {site.name!r} is none; copy it as the site's fieldstone keys make gave it"
        )
    return Site(site.name, str(url), site.key, site.workspace, site.ca)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
